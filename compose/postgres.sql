-- The users of the stack and what they may do: the same as the role postgres gives them (tests/test_compose_files.py).
SET log_min_duration_statement = -1;
\set owner_password `cat /secrets/owner`
\set app_password `cat /secrets/app`
CREATE EXTENSION pg_stat_statements;
CREATE ROLE celery_owner LOGIN PASSWORD :'owner_password';
CREATE ROLE celery_app LOGIN PASSWORD :'app_password';
CREATE DATABASE celery OWNER celery_owner TEMPLATE template0 ENCODING 'UTF8' LOCALE 'C.UTF-8';
\connect celery
REVOKE ALL ON DATABASE celery FROM PUBLIC;
GRANT CONNECT ON DATABASE celery TO celery_app;
GRANT USAGE ON SCHEMA public TO celery_app;
ALTER DEFAULT PRIVILEGES FOR ROLE celery_owner GRANT USAGE ON SCHEMAS TO celery_app;
ALTER DEFAULT PRIVILEGES FOR ROLE celery_owner GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO celery_app;
ALTER DEFAULT PRIVILEGES FOR ROLE celery_owner GRANT SELECT, USAGE ON SEQUENCES TO celery_app;

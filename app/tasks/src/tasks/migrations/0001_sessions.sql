-- Sessions of users; an expired one is deleted by tasks.scheduled.cleanup_expired_sessions.
-- Every statement can be repeated: should the process die before yoyo has noted the migration, it runs again.
CREATE TABLE IF NOT EXISTS sessions (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    user_id bigint NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    expires_at timestamptz NOT NULL
);
CREATE INDEX IF NOT EXISTS sessions_expires_at ON sessions (expires_at);

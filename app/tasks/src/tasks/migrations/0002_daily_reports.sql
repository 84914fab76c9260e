-- depends: 0001_sessions
-- What the daily figures are made from: sessions vanish, the note that a user logged in stays.
CREATE TABLE IF NOT EXISTS logins (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    user_id bigint NOT NULL,
    logged_in_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX IF NOT EXISTS logins_logged_in_at ON logins (logged_in_at);

-- One row a day (UTC), written by tasks.scheduled.generate_daily_reports.
CREATE TABLE IF NOT EXISTS daily_reports (
    day date PRIMARY KEY,
    logins bigint NOT NULL CHECK (logins >= 0),
    users bigint NOT NULL CHECK (users >= 0),
    generated_at timestamptz NOT NULL DEFAULT now()
);

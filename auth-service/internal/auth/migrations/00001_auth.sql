-- +goose Up
create table users (
    id            uuid        primary key,
    email         text        not null,
    email_key     text        not null constraint users_email_key unique, -- lower case: how addresses compare
    name          text        not null,
    role          text        not null check (role in ('Customer', 'Admin')),
    password_hash text        not null,                                   -- argon2id, PHC string
    created_at    timestamptz not null,
    updated_at    timestamptz not null
);
create index users_admins on users (id) where role = 'Admin';

-- A session is one login; its id is the token's sid and the refresh family.
create table sessions (
    id             uuid        primary key,
    user_id        uuid        not null references users (id) on delete cascade,
    created_at     timestamptz not null,
    last_used_at   timestamptz not null,
    expires_at     timestamptz not null,
    ip             text        not null,
    network        text        not null,                -- of ip at the login; tells familiar places from others
    user_agent     text        not null,
    revoked_at     timestamptz,
    revoked_reason text        check (revoked_reason in ('logout', 'revoked', 'password_changed', 'reuse'))
);
create index sessions_of_user on sessions (user_id, id);
create index sessions_ended on sessions (expires_at);

-- Every refresh token of a session, so that an old one is known when it comes
-- again. Only its SHA-256 is kept.
create table refresh_tokens (
    hash       bytea       primary key,
    session_id uuid        not null references sessions (id) on delete cascade,
    created_at timestamptz not null default clock_timestamp(),
    expires_at timestamptz not null,
    used_at    timestamptz
);
-- There is never a second live branch, whatever the code does.
create unique index refresh_tokens_live on refresh_tokens (session_id) where used_at is null;
create index refresh_tokens_of_session on refresh_tokens (session_id);
create index refresh_tokens_expired on refresh_tokens (expires_at);

-- RSA keys, shared by all replicas. A key signs in [sign_from, sign_until) and
-- verifies until verify_until.
create table signing_keys (
    kid          text        primary key,
    private_key  bytea       not null,          -- PKCS #8, sealed with AUTH_KEYS_SECRET when sealed
    sealed       boolean     not null,
    created_at   timestamptz not null,
    sign_from    timestamptz not null,
    sign_until   timestamptz not null,
    verify_until timestamptz not null,
    check (sign_from <= sign_until and sign_until <= verify_until)
);

-- Failed logins as leaky buckets: level drains with time. Lost in a crash of
-- the database, which is worth not writing WAL for an attacker.
create unlogged table login_failures (
    bucket     bytea       primary key,         -- hash of what is counted
    level      real        not null,
    updated_at timestamptz not null
);
create index login_failures_updated on login_failures (updated_at);

-- Security events, append-only. Never a password, a token or an unknown e-mail.
create table audit_log (
    id         bigint      generated always as identity primary key,
    at         timestamptz not null default clock_timestamp(),
    kind       text        not null,
    user_id    uuid,                            -- whose account, if it is known
    actor_id   uuid,                            -- who did it, if it was somebody else
    session_id uuid,
    ip         text        not null,
    user_agent text        not null,
    detail     jsonb       not null default '{}'
);
create index audit_log_of_user on audit_log (user_id, id);
create index audit_log_at on audit_log (at);

-- +goose Down
drop table audit_log, login_failures, signing_keys, refresh_tokens, sessions, users;

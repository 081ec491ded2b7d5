-- Attempts in the order in which they were claimed, so that counting what a client holds need not walk past all that it held before.
--
-- `sequence` grows from each claim of a client to its next, because they lock the client's row. Attempts from before have 0. Where there are millions of
-- attempts, `sql/README.md` says how all of this is done before, without keeping anybody out; then this version has nothing to do.
create sequence if not exists attempts_sequence_seq;
alter table attempts add column if not exists sequence bigint not null default 0;
alter table attempts alter column sequence set default nextval('attempts_sequence_seq');
create index if not exists attempts_held_idx on attempts (client_id, sequence) where ended_at is null and lease_seconds is not null;

-- What it was for the new one serves as well.
drop index attempts_live_idx;

-- Attempts in the order in which they were claimed, so that counting what a client holds need not walk past all that it held before.
--
-- `sequence` grows from each claim of a client to its next, because they lock the client's row. Attempts from before have 0. Where there are millions of
-- attempts, `sql/README.md` says how all of this is done before, with nobody kept out for long; then this version has nothing to build.
create sequence if not exists attempts_sequence_seq;
alter table attempts add column if not exists sequence bigint not null default 0;
alter table attempts alter column sequence set default nextval('attempts_sequence_seq');
alter sequence attempts_sequence_seq owned by attempts.sequence;
create index if not exists attempts_held_idx on attempts (client_id, sequence) where ended_at is null and lease_seconds is not null;

-- One that was being built when its session ended is there, and of no use.
do $$
begin
    if not exists (
        select
        from pg_index
        where indexrelid = 'attempts_held_idx'::regclass and indrelid = 'attempts'::regclass and indisvalid
          and pg_get_indexdef(indexrelid) like '% (client_id, sequence) WHERE ((ended_at IS NULL) AND (lease_seconds IS NOT NULL))'
    ) then
        raise exception 'the index attempts_held_idx was not built to its end, or is another one: run `drop index concurrently attempts_held_idx`, build it again as sql/README.md says, and migrate then';
    end if;
end
$$;

-- What it was for the new one serves as well.
drop index attempts_live_idx;

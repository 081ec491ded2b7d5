-- Attempts and leases: who runs a job, until when, how often it may fail, and when it is due.

alter table tasks
    add column max_attempts    integer constraint tasks_max_attempts_check check (max_attempts between 1 and 1000),
    add column backoff_seconds integer constraint tasks_backoff_seconds_check check (backoff_seconds between 0 and 86400);

-- `attempt` counts all claims and never goes back. `failed_attempts` counts those that used up one of `max_attempts`; a retry begins at 0 again.
-- Null stands for what the task says, or else the settings.
--
-- A job is given out from `not_before` on. `due` says that this time has come (or was never set): what the index of ready jobs asks for cannot read a
-- clock, so somebody has to set it (jobs/due.sql), and claims never walk past jobs that are not due yet.
alter table jobs
    add column max_attempts    integer constraint jobs_max_attempts_check check (max_attempts between 1 and 1000),
    add column backoff_seconds integer constraint jobs_backoff_seconds_check check (backoff_seconds between 0 and 86400),
    add column failed_attempts integer     not null default 0,
    add column not_before      timestamptz,
    add column due             boolean     not null default true,
    add constraint jobs_due_check check (due or not_before is not null),
    drop column ready,
    add column ready boolean not null generated always as (status = 'PENDING' and unmet = 0 and due) stored,
    add column halted boolean not null generated always as (status in ('FAILED', 'CANCELLED', 'BLOCKED')) stored;

create index jobs_ready_idx on jobs (task_id, (-priority), id) where ready;
create index jobs_due_idx on jobs (not_before) where not due;
-- What can be retried, which is little of a project.
create index jobs_halted_idx on jobs (project_id, id) where halted;

-- One claim of a job. The one with the job's number is the current one, and it lives until `ended_at`. No foreign key to jobs, for the reason that
-- dependencies have none; whatever deletes jobs deletes their attempts too (sql/README.md).
--
-- `cpu` and `accelerators` are what it holds of its client, from the moment of the claim. `client_id` is null where a job was fetched by who did not say
-- who they are, and `lease_seconds` where there is no lease. `job_status` is what the job became when the attempt ended.
create table attempts (
    job_id           bigint      not null,
    number           integer     not null,
    client_id        text collate "C",
    status           text        not null constraint attempts_status_check
                                 check (status in ('CLAIMED', 'RUNNING', 'COMPLETED', 'FAILED', 'RELEASED', 'EXPIRED', 'CANCELLED')),
    cpu              integer     not null,
    accelerators     integer     not null,
    claimed_at       timestamptz not null default clock_timestamp(),
    started_at       timestamptz,
    ended_at         timestamptz,
    lease_seconds    integer,
    lease_expires_at timestamptz,
    cancel_requested boolean     not null default false,
    progress         double precision,
    message          text,
    result           json,
    error            text,
    exit_code        integer,
    reason           text,
    log_tail         text,
    job_status       text,
    reported         boolean     not null default false,
    constraint attempts_pkey primary key (job_id, number),
    constraint attempts_lease_check check ((lease_seconds is null) = (lease_expires_at is null)),
    constraint attempts_ended_check check ((ended_at is null) = (status in ('CLAIMED', 'RUNNING')))
) with (fillfactor = 80);

-- Leases that run, by client. That of `lease_expires_at` only nullness is asked, by way of `lease_seconds`, keeps heartbeats HOT updates; how many there
-- are is what the fleet runs at a time, so those that have ended are found by looking at all.
create index attempts_live_idx on attempts (client_id) where ended_at is null and lease_seconds is not null;

-- Whose a client is: of the user whose key registered it, or of that key and its successors. Both are null for one that is nobody's in particular.
alter table clients
    add column owner_user bigint,
    add column owner_key  text;

-- Claims walk from the head of the ready index, where dead entries gather: vacuum as they come.
alter table jobs set (autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_threshold = 1000, autovacuum_vacuum_cost_delay = 0);
alter table attempts set (autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_threshold = 1000, autovacuum_vacuum_cost_delay = 0);

-- How many jobs of each status a project has: the sums of its rows. Every statement that changes jobs adds what it changes, so that no two of them wait for each
-- other; projects/compact_counts.sql makes few rows of many. There is no foreign key: what goes with a project is counted down like everything else.
create table job_counts (
    project_id bigint not null,
    status     text   not null,
    jobs       bigint not null
);

create index job_counts_project_idx on job_counts (project_id);

insert into job_counts (project_id, status, jobs)
select project_id, status, count(*)
from jobs
group by project_id, status;

create function count_jobs() returns trigger language plpgsql as $$
begin
    case tg_op
        when 'INSERT' then
            insert into job_counts (project_id, status, jobs)
            select project_id, status, count(*)
            from new_jobs
            group by project_id, status;
        when 'DELETE' then
            insert into job_counts (project_id, status, jobs)
            select project_id, status, -count(*)
            from old_jobs
            group by project_id, status;
        else
            insert into job_counts (project_id, status, jobs)
            select project_id, status, sum(one)
            from (
                select project_id, status, 1 as one from new_jobs
                union all
                select project_id, status, -1 from old_jobs
            ) as changed
            group by project_id, status
            having sum(one) <> 0;
    end case;
    return null;
end
$$;

create trigger jobs_count_inserted after insert on jobs
    referencing new table as new_jobs for each statement execute function count_jobs();
create trigger jobs_count_updated after update on jobs
    referencing old table as old_jobs new table as new_jobs for each statement execute function count_jobs();
create trigger jobs_count_deleted after delete on jobs
    referencing old table as old_jobs for each statement execute function count_jobs();

-- Requests that must not be done twice (Idempotency-Key): what was answered, kept by the transaction that did it.
create table submissions (
    caller     text        not null,
    key        text        not null,
    digest     bytea       not null,
    location   text        not null,
    answer     text        not null,
    created_at timestamptz not null default now(),
    constraint submissions_pkey primary key (caller, key)
);

create index submissions_created_at_idx on submissions (created_at);

-- Notes that clients have begun with what they claimed, which extends their leases as heartbeats do, and gives the attempts back with the places of those who
-- said so. The rows are locked first, jobs before attempts, and each is looked up by itself; what somebody else holds is passed over, and so are clients for
-- which the speaker may not speak (attempts/may_report.sql).
-- One array element an attempt, and what is there twice is done once: $1 job ids, $2 numbers, $3 the speakers' users or null, $4 their keys, or null for
-- who may speak for all
with wanted as materialized (
    select job_id, number, speaker_user, speaker_key, position
    from unnest($1::bigint[], $2::integer[], $3::bigint[], $4::text[]) with ordinality as w (job_id, number, speaker_user, speaker_key, position)
), locked as materialized (
    select w.position, w.job_id, w.number
    from wanted w
    cross join lateral (
        select j.id
        from jobs j
        join attempts a on a.job_id = j.id and a.number = j.attempt
        left join clients c on c.id = a.client_id
        where j.id = w.job_id and j.attempt = w.number and j.status = 'QUEUED' and a.status = 'CLAIMED'
          and (w.speaker_key is null or c.owner_key is null or c.owner_user = w.speaker_user or c.owner_key = w.speaker_key
               or exists (
                   with recursive line as (
                       select k.id, k.successor
                       from keys k
                       where k.id = c.owner_key
                       union
                       select k.id, k.successor
                       from line
                       join keys k on k.id = line.successor
                   )
                   select from line where line.id = w.speaker_key
               ))
        for no key update of j, a skip locked
    ) as held
), begun as (
    update attempts
    set status = 'RUNNING', started_at = clock_timestamp(),
        lease_expires_at = case
            when cancel_requested then lease_expires_at
            else clock_timestamp() + make_interval(secs => lease_seconds)
        end
    from locked
    where attempts.job_id = locked.job_id and attempts.number = locked.number
    returning attempts.job_id, attempts.number, client_id, status, cpu, accelerators, claimed_at, started_at, ended_at, lease_seconds,
          lease_expires_at, cancel_requested, progress, message, result, error, exit_code, reason, log_tail, job_status, reported
), running as (
    update jobs
    set status = 'RUNNING', updated_at = greatest(clock_timestamp(), updated_at + interval '1 microsecond')
    where id = any (array (select job_id from begun))
)
select locked.position, begun.job_id, begun.number, client_id, status, cpu, accelerators, claimed_at, started_at, ended_at, lease_seconds,
       lease_expires_at, cancel_requested, progress, message, result, error, exit_code, reason, log_tail, job_status, reported
from locked
join begun on begun.job_id = locked.job_id and begun.number = locked.number

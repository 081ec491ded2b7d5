-- Locks attempts that may be reported of, and their jobs before them, until the transaction ends, and tells the places of those who report of them. Each is
-- looked up by itself. What somebody else holds is passed over, what is over, and so are clients for which the speaker may not speak
-- (attempts/may_report.sql).
-- One array element an attempt: $1 job ids, $2 numbers, $3 the speakers' users or null, $4 their keys, or null for who may speak for all
with wanted as materialized (
    select job_id, number, speaker_user, speaker_key, position
    from unnest($1::bigint[], $2::integer[], $3::bigint[], $4::text[]) with ordinality as w (job_id, number, speaker_user, speaker_key, position)
)
select w.position
from wanted w
cross join lateral (
    select j.id
    from jobs j
    join attempts a on a.job_id = j.id and a.number = j.attempt
    left join clients c on c.id = a.client_id
    where j.id = w.job_id and j.attempt = w.number and j.status in ('QUEUED', 'RUNNING') and a.ended_at is null
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
) as locked

-- Locks clients until the transaction ends, and tells what they have in all, and whether they have not signed off, with the places of those who claim for them.
-- Clients that are somebody's, but neither the speaker's user's nor their key's own, are passed over (clients/may_use.sql knows of successors).
--
-- One by one, in the order of their ids: compared with all ids at once, all clients would be read as long as there are not very many.
-- One array element a claim: $1 client ids, $2 the speakers' users or null, $3 their keys, or null for who may speak for all
select wanted.position, locked.available_cpu, locked.available_accelerators, locked.is_active
from (
    select w.id collate "C" as id, w.speaker_user, w.speaker_key, w.position
    from unnest($1::text[], $2::bigint[], $3::text[]) with ordinality as w (id, speaker_user, speaker_key, position)
    order by 1
) as wanted
cross join lateral (
    select c.available_cpu, c.available_accelerators, c.is_active
    from clients c
    where c.id = wanted.id
      and (wanted.speaker_key is null or c.owner_key is null or c.owner_user = wanted.speaker_user or c.owner_key = wanted.speaker_key)
    for no key update
) as locked

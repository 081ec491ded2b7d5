-- Registers a client, or refreshes the one that has this id if the owner may speak for it (clients/may_use.sql); active again either way. Whose it is stays
-- as it is. No row if it is somebody else's: of two that register the same new id at once, the second finds the first's. Tells whether it has
-- more than before, or was not there (what is read here is as it was before): a claim may wait that was made for one that was forgotten.
-- $1 id, $2 name, $3 entity, $4 description or null, $5 available cpu, $6 available accelerators, $7 owning user or null, $8 owning key or null
insert into clients (id, name, entity, description, available_cpu, available_accelerators, owner_user, owner_key)
values ($1, $2, $3, $4, $5, $6, $7, $8)
on conflict (id) do update
set name = excluded.name, entity = excluded.entity, description = excluded.description,
    available_cpu = excluded.available_cpu, available_accelerators = excluded.available_accelerators,
    last_heartbeat = clock_timestamp(), is_active = true
where $8::text is null or clients.owner_key is null or coalesce(clients.owner_user = $7, false) or clients.owner_key = $8
   or exists (
       with recursive line as (
           select k.id, k.successor
           from keys k
           where k.id = clients.owner_key
           union
           select k.id, k.successor
           from line
           join keys k on k.id = line.successor
       )
       select from line where line.id = $8
   )
returning id, name, entity, description, available_cpu, available_accelerators, last_heartbeat, created_at, is_active,
          not exists (
              select
              from clients was
              where was.id = clients.id
                and was.available_cpu >= clients.available_cpu and was.available_accelerators >= clients.available_accelerators
          ) as has_grown

-- Changes the given fields of a client; null leaves a field as it is. Tells whether it has more than before (what is read here is as it was before).
-- $1 client id, $2 available cpu, $3 available accelerators, $4 is active
update clients
set available_cpu = coalesce($2, available_cpu),
    available_accelerators = coalesce($3, available_accelerators),
    is_active = coalesce($4, is_active)
where id = $1
returning id, name, entity, description, available_cpu, available_accelerators, last_heartbeat, created_at, is_active,
          exists (
              select
              from clients was
              where was.id = clients.id
                and (was.available_cpu < clients.available_cpu or was.available_accelerators < clients.available_accelerators)
          ) as has_grown

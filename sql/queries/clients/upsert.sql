-- Registers a client, or refreshes the one that has this id; active again either way.
-- $1 id, $2 name, $3 entity, $4 description or null, $5 available cpu, $6 available accelerators
insert into clients (id, name, entity, description, available_cpu, available_accelerators)
values ($1, $2, $3, $4, $5, $6)
on conflict (id) do update
set name = excluded.name, entity = excluded.entity, description = excluded.description,
    available_cpu = excluded.available_cpu, available_accelerators = excluded.available_accelerators,
    last_heartbeat = now(), is_active = true
returning id, name, entity, description, available_cpu, available_accelerators, last_heartbeat, created_at, is_active

-- How everything stands together.
select coalesce((
           select json_object_agg(status, jobs)
           from (select c.status, sum(c.jobs)::bigint as jobs from job_counts c group by c.status) as counted
       ), '{}') as counts,
       (select count(*) from projects) as projects,
       (select count(*) from clients where is_active) as live_clients,
       (select count(*) from attempts where ended_at is null and lease_seconds is not null) as leases

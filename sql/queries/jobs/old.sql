-- Looks at the next jobs by id: the last id among them (null if there are none), and those that were finished long ago. Walking by id needs no index of its
-- own, which every completion would have to keep.
-- $1 only ids above this, $2 how many to look at, $3 age in seconds
with page as (
    select id, project_id, status, updated_at
    from jobs
    where id > $1
    order by id
    limit $2
)
select max(page.id) as last,
       coalesce(array_agg(page.id order by page.id) filter (where old.is_old), '{}') as ids,
       coalesce(array_agg(page.project_id order by page.id) filter (where old.is_old), '{}') as project_ids
from page
cross join lateral (
    select page.status in ('COMPLETED', 'FAILED', 'CANCELLED') and page.updated_at < now() - make_interval(secs => $3) as is_old
) as old

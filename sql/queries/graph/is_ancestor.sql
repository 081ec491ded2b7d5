-- Is a job among the ancestors of others? Then they must not become its parents. Reads those ancestors and nothing else.
-- $1 job id, $2 ids of the would-be parents
with recursive ancestors (id) as (
    select unnest($2::bigint[])
    union
    select d.depends_on
    from ancestors
    join dependencies d on d.job_id = ancestors.id
)
select exists (select from ancestors where id = $1) as circular

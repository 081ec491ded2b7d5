-- In how many seconds the next job is due: null if none will be.
select extract(epoch from min(not_before) - clock_timestamp())::double precision as seconds
from jobs
where not due

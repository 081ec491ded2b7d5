-- What was answered to a request.
-- $1 caller, $2 key
select digest, location, answer
from submissions
where caller = $1 and key = $2

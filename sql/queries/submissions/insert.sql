-- Keeps what is answered to a request.
-- $1 caller, $2 key, $3 digest of the request, $4 location, $5 answer
insert into submissions (caller, key, digest, location, answer)
values ($1, $2, $3, $4, $5)

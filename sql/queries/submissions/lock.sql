-- Whether nobody else is doing this request right now; nobody will until the transaction ends.
-- $1 caller, $2 key
select pg_try_advisory_xact_lock(hashtextextended('submission ' || $1::text || ' ' || $2::text, 0)) as alone

-- Is this the only process that migrates this database? If so, until the transaction ends, however long the migration takes meanwhile.
-- $1 lock number
select pg_try_advisory_xact_lock($1) as alone, set_config('idle_in_transaction_session_timeout', '0', true)

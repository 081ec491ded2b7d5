-- Whether there is any key.
select exists (select from keys) as present

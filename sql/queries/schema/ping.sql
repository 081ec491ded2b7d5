-- Does the database answer?
select 1 as pong

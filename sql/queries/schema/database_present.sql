-- Does WhatsNext's database exist?
select exists (select from pg_database where datname = 'whatsnext') as present

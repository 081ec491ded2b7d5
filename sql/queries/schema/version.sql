-- The newest migration that this database has had.
select max(version) as version
from refinery_schema_history

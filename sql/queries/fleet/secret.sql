-- What all servers on this database know, and nobody else.
select secret from fleet

-- Makes WhatsNext's database. Only `whatsnext dev` does: elsewhere it is an administrator's, with their settings.
create database whatsnext

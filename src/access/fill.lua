-- Copies a key's record to where servers look. A record that is newer stays.
--
-- KEYS  the record
-- ARGV  its version, for how many ms it is kept, the version of what was found there and is no record, '' for none, and then each field and its value
--
-- Returns 1 if this is the record now, 0 if a newer one is there.
local there = redis.pcall('HGET', KEYS[1], 'version')
if type(there) == 'string' and there ~= ARGV[3] and (tonumber(there) or 0) > tonumber(ARGV[1]) then return 0 end
redis.call('DEL', KEYS[1])
redis.call('HSET', KEYS[1], 'version', ARGV[1], unpack(ARGV, 4))
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return 1

-- Says that a server is alive, and how many are. Fails where Redis does not take writes.
--
-- KEYS  the servers, by when they last said so
-- ARGV  this server's id, for how many ms it counts
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now - ARGV[2])
redis.call('ZADD', KEYS[1], now, ARGV[1])
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return redis.call('ZCARD', KEYS[1])

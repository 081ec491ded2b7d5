-- Notes a token of a key, unless the key has too many.
--
-- KEYS  the key's tokens, by when each ends in ms
-- ARGV  the token's digest, for how many ms it is to be good, when the key ends in ms or '', how many tokens a key may have
--
-- Returns when the token ends, 0 if there are too many already.
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local ends = now + ARGV[2]
if ARGV[3] ~= '' then ends = math.min(ends, tonumber(ARGV[3])) end
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)
if redis.call('ZCARD', KEYS[1]) >= tonumber(ARGV[4]) then return 0 end
redis.call('ZADD', KEYS[1], ends, ARGV[1])
local last = redis.call('ZRANGE', KEYS[1], -1, -1, 'WITHSCORES')
redis.call('PEXPIREAT', KEYS[1], last[2])
return ends

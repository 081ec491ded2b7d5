-- The usual exact log: a sorted set of the times of what was admitted.
local function admit(key, limit, length, now)
  redis.call('ZREMRANGEBYSCORE', key, '-inf', now - length)
  local count = redis.call('ZCARD', key)
  if count >= limit then return 0 end
  redis.call('ZADD', key, now, now .. ':' .. count)
  redis.call('PEXPIRE', key, length)
  return 1
end

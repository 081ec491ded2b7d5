-- Follows one of the others: one decision at Redis's time, answered as ours is.
local clock = redis.call('TIME')
return {{admit(KEYS[1], tonumber(ARGV[1]), tonumber(ARGV[2]), clock[1] * 1000 + math.floor(clock[2] / 1000))}}

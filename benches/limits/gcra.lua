-- GCRA, a leaky bucket that is kept as the time at which it will have run dry; it takes a whole limit at once.
local function admit(key, limit, length, now)
  local dry = math.max(tonumber(redis.call('GET', key) or 0), now) + length / limit
  if dry - now > length then return 0 end
  redis.call('SET', key, string.format('%.3f', dry), 'PX', math.ceil(dry - now))
  return 1
end

-- Two counters of fixed windows; of the one before, the part that is still inside is taken to be spread evenly.
local function admit(key, limit, length, now)
  local number = math.floor(now / length)
  local stored = redis.call('HMGET', key, 'number', 'count', 'before')
  local last, count, before = tonumber(stored[1] or -1), tonumber(stored[2] or 0), tonumber(stored[3] or 0)
  if last == number - 1 then
    count, before = 0, count
  elseif last ~= number then
    count, before = 0, 0
  end
  if before * (1 - (now % length) / length) + count + 1 > limit then return 0 end
  redis.call('HSET', key, 'number', number, 'count', count + 1, 'before', before)
  redis.call('PEXPIRE', key, 2 * length)
  return 1
end

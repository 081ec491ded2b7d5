-- Whether a request may come in: the subject's record and its windows, in one call. Follows window.lua in one script.
--
-- KEYS  [the record, if there is a guard], [the subject's tokens, if one was presented] and then one key for each window; all share a hash tag
-- ARGV  the version that the caller has verified, '' for no guard; the token's digest, '' for none; how many ask the same, one after the other; then
--       for each window its limit, its length in ms, the weight of each who asks, 1 if the subject's own limit goes before the window's
--
-- Returns {how many were admitted, then for each window: limit, remaining, reset in ms, verdict on whoever was not (0 admits, n in n ms, -1 never)};
-- or alone -1 if the record is missing, -2 if the subject is gone, -3 if its version is another, and then nothing is charged.

local clock = call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)

local own_limit
local record_keys = 0
if ARGV[1] ~= '' then
  record_keys = 1
  local record = redis.pcall('HMGET', KEYS[1], 'version', 'expires_at_ms', 'dead', 'limit')
  if record.err then
    if not string.find(record.err, 'WRONGTYPE', 1, true) then error(record.err) end
    return {-1}
  end
  local version, expires_at, dead, limit = record[1], record[2], record[3], record[4]
  if dead then return {-2} end
  if not version or (expires_at and not string.find(expires_at, '^%d+$')) or (limit and not string.find(limit, '^%d+$')) then
    return {-1} -- as good as missing: the owner of the record writes it anew
  end
  if expires_at and tonumber(expires_at) <= now then return {-2} end
  if version ~= ARGV[1] then return {-3} end
  own_limit = limit and math.min(tonumber(limit), 10000000) -- window::MAX_LIMIT
  if ARGV[2] ~= '' then
    record_keys = 2
    local ends = redis.pcall('ZSCORE', KEYS[2], ARGV[2])
    if type(ends) == 'table' and ends.err and not string.find(ends.err, 'WRONGTYPE', 1, true) then error(ends.err) end
    if type(ends) ~= 'string' or tonumber(ends) <= now then return {-2} end
  end
end

local looks = {}
for i = 1, #KEYS - record_keys do
  local at = i * 4
  local limit = own_limit and ARGV[at + 3] == '1' and own_limit or tonumber(ARGV[at])
  -- A millisecond more than asked: the clock's are rounded down, so two of them can be up to one further apart than the true times are.
  looks[i] = limit > 0 and look(KEYS[i + record_keys], limit, tonumber(ARGV[at + 1]) + 1, tonumber(ARGV[at + 2]), now)
end
return decide(looks, tonumber(ARGV[3]))

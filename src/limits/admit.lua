-- Whether requests may come in: subjects' records and windows, any number of questions in one call. Follows window.lua in one script.
--
-- KEYS  for each question [the record, if there is a guard], [the subject's tokens, if one was presented] and then one key for each window; in a
--       cluster all of them share a slot
-- ARGV  for each question the number of its windows; the version that the caller has verified, '' for no guard; the token's digest, '' for none; how
--       many ask it, one after the other; then for each window its limit, its length in ms, the weight of each who asks, 1 if the subject's own limit
--       goes before the window's
--
-- Returns for each question {how many were admitted, then for each window: limit, remaining, reset in ms, verdict on whoever was not (0 admits, n in
-- n ms, -1 never)}; or alone -1 if the record is missing, -2 if the subject is gone, -3 if its version is another, and then nothing is charged.
-- A window that several questions name is charged by one after the other.

local clock = call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)

local answers, key, at = {}, 1, 1
repeat
  local windows, verified, token, refusal, own_limit = tonumber(ARGV[at]), ARGV[at + 1], ARGV[at + 2], nil, nil
  if verified ~= '' then
    local record = redis.pcall('HMGET', KEYS[key], 'version', 'expires_at_ms', 'dead', 'limit')
    local version, expires_at, dead, limit = record[1], record[2], record[3], record[4]
    if record.err and not string.find(record.err, 'WRONGTYPE', 1, true) then error(record.err) end
    if dead then
      refusal = -2
    elseif not version or (expires_at and not string.find(expires_at, '^%d+$')) or (limit and not string.find(limit, '^%d+$')) then
      refusal = -1 -- as good as missing: the owner of the record writes it anew
    elseif expires_at and tonumber(expires_at) <= now then
      refusal = -2
    elseif version ~= verified then
      refusal = -3
    end
    key = key + 1
    if token ~= '' then
      if not refusal then
        local ends = redis.pcall('ZSCORE', KEYS[key], token)
        if type(ends) == 'table' and ends.err and not string.find(ends.err, 'WRONGTYPE', 1, true) then error(ends.err) end
        if type(ends) ~= 'string' or tonumber(ends) <= now then refusal = -2 end
      end
      key = key + 1
    end
    own_limit = limit and math.min(tonumber(limit) or 0, 10000000) -- window::MAX_LIMIT
  end
  if refusal then
    answers[#answers + 1] = {refusal}
  else
    local looks = {}
    for i = 1, windows do
      local of = at + i * 4
      -- A millisecond more than asked: the clock's are rounded down, so two of them can be up to one further apart than the true times are.
      local limit = own_limit and ARGV[of + 3] == '1' and own_limit or tonumber(ARGV[of])
      looks[i] = limit > 0 and look(KEYS[key + i - 1], limit, tonumber(ARGV[of + 1]) + 1, tonumber(ARGV[of + 2]), now)
    end
    answers[#answers + 1] = decide(looks, tonumber(ARGV[at + 3]))
  end
  key, at = key + windows, at + 4 + windows * 4
until not ARGV[at]
return answers

-- Drives windows through many steps in one call, each at a time that the test says. Follows lives.lua and window.lua in one script.
--
-- KEYS  the windows   ARGV  for each step: 'decide', now, how many ask, then limit, length and weight of each window; or 'reset', now, 1 for each that is reset
--
-- A window's key goes when it would go by the test's clock.
-- Returns for each step {the answer, which windows went by themselves before it}.

local deadlines, answers = {}, {}
local at = 1
while at <= #ARGV do
  local what, now = ARGV[at], tonumber(ARGV[at + 1])
  at = at + 2
  local gone = {}
  for i, key in ipairs(KEYS) do
    gone[i] = deadlines[i] and now >= deadlines[i] and call('DEL', key) or 0
    if gone[i] == 1 then deadlines[i] = nil end
  end
  local answer = {}
  if what == 'reset' then
    for i, key in ipairs(KEYS) do
      if ARGV[at] == '1' then
        call('DEL', key)
        deadlines[i] = nil
      end
      at = at + 1
    end
  else
    local looks, times = {}, tonumber(ARGV[at])
    at = at + 1
    for i, key in ipairs(KEYS) do
      local limit, length, weight = tonumber(ARGV[at]), tonumber(ARGV[at + 1]), tonumber(ARGV[at + 2])
      looks[i] = limit > 0 and look(key, limit, length, weight, now)
      at = at + 3
    end
    answer = decide(looks, times)
    for i, key in ipairs(KEYS) do
      if lives[key] then deadlines[i], lives[key] = now + lives[key], nil end
    end
  end
  answers[#answers + 1] = {answer, gone}
end
return answers

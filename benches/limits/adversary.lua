-- Follows one of the others: asks in each ms of each phase until it is refused, and returns the times of what was admitted.
-- ARGV: limit, length, then the first and the last ms of each phase.
redis.call('DEL', KEYS[1])
local limit, length, admitted = tonumber(ARGV[1]), tonumber(ARGV[2]), {}
for i = 3, #ARGV, 2 do
  for now = tonumber(ARGV[i]), tonumber(ARGV[i + 1]) do
    while admit(KEYS[1], limit, length, now) == 1 do admitted[#admitted + 1] = now end
  end
end
redis.call('DEL', KEYS[1])
return admitted

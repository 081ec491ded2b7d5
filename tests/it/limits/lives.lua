-- Comes before window.lua in one script, and takes the lives of keys from Redis, since the test's clock is not Redis's. They are noted in `lives`.

local lives, real = {}, redis
local redis = {
  pcall = real.pcall,
  call = function(command, key, ...)
    local value, px, ttl = ...
    if command == 'PEXPIRE' then
      lives[key] = value
    elseif command == 'SET' then
      lives[key] = px == 'PX' and ttl or error('a window without a time to live')
      return real.call('SET', key, value)
    else
      return real.call(command, key, ...)
    end
  end,
}

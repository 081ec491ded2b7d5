-- Follows window.lua: one window, by a time that is given.
local function admit(key, limit, length, now)
  return decide({look(key, limit, length, 1, now)}, 1)[1]
end

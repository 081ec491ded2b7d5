-- Exact sliding windows, each in one string: a header, then a ring of the times of the last admissions, four bytes each.
-- The same as window.rs, which says what it all means; tests/it/limits.rs drives both with the same calls.
--
-- A decision reads the header and O(log n) entries, by way of a search for the first that still counts. A refusal writes nothing, unless the
-- clock has stepped back. An admission writes its entries and the header; now and then the ring is laid out anew, each time an eighth larger.
--
-- Times in the header are whole, those in the ring are their low 32 bits. A charge leaves nothing in the ring that is older than a length before
-- `last`, and a length is less than 2^31, so `last` tells what the whole time of an entry is.

local pack, unpack, call, floor, max, min = struct.pack, struct.unpack, redis.call, math.floor, math.max, math.min

local LAYOUT = '<I4I4I4I4I4I8I8I8' -- magic, capacity, head, count, first, last, ahead, deadline
local HEADER = 44
local MAGIC = 827083607 -- "WWL1": another layout gets another number
local ROUND = 4294967296

-- The header's fields, or nothing if there is no window in this layout. What is there instead, of whatever type, counts as an empty
-- window and is replaced by the first admission: trusting it could admit for ever, an error would refuse for ever.
local function read_header(key)
  local header = redis.pcall('GETRANGE', key, '0', '43')
  if type(header) == 'table' then
    if not string.find(header.err, 'WRONGTYPE', 1, true) then error(header.err) end
    return nil
  end
  if #header < HEADER then return nil end
  local magic, capacity, head, count, first, last, ahead, deadline = unpack(LAYOUT, header)
  if magic ~= MAGIC or count > capacity or head >= capacity or call('STRLEN', key) ~= HEADER + capacity * 4 then return nil end
  return capacity, head, count, first, last, ahead, deadline
end

local function header(w)
  return pack(LAYOUT, MAGIC, w.capacity, w.head, w.count, w.first % ROUND, w.last, w.ahead, w.deadline)
end

-- How long a key is kept: the length, and a part of it on top so that not every admission has to say so anew.
local function time_to_live(length)
  return length + floor(length / 4) + 1
end

-- The time of the i-th oldest entry, from 0.
local function entry(w, i)
  local at = HEADER + (w.head + i) % w.capacity * 4
  return w.last - (w.last - unpack('<I4', call('GETRANGE', w.key, at, at + 3))) % ROUND
end

-- Leaves out the entries up to `cut`. The newest is later.
local function skip(w, cut)
  local outside, step = 0, 1 -- entry(outside) is known to be outside
  local inside, first = w.count - 1, w.last
  while outside + step < inside do -- by leaps, each twice as far, since few leave at a time
    local i = outside + step
    local time = entry(w, i)
    if time > cut then
      inside, first = i, time
    else
      outside, step = i, step * 2
    end
  end
  while inside - outside > 1 do
    local i = floor((outside + inside) / 2)
    local time = entry(w, i)
    if time > cut then inside, first = i, time else outside = i end
  end
  w.head, w.count, w.first = (w.head + inside) % w.capacity, w.count - inside, first
end

-- A window as it is now, and in `verdict` what it says to a weight: 0 there is room, n there is in n ms, -1 never.
local function look(key, limit, length, weight, now)
  local capacity, head, count, first, last, ahead, deadline = read_header(key)
  if not capacity then
    capacity, head, count, first, last, ahead, deadline = 0, 0, 0, now, now, 0, 0
  end
  -- All fields at once, since a table that grows is slow.
  local w = {
    key = key, limit = limit, length = length, weight = weight, verdict = 0, time = now + ahead,
    capacity = capacity, head = head, count = count, first = last - (last - first) % ROUND, last = last, ahead = ahead, deadline = deadline,
  }
  if w.time < last then
    -- The clock went back. This is written even if nothing is charged: if it were not, the clock would stand still for those who are refused.
    -- The key stays until the same time by the clock; the next charge sees that this is too long.
    w.time, w.ahead, w.deadline = last, last - now, deadline + last - now - ahead
    call('SETRANGE', key, '0', header(w))
  end
  local cut = w.time - length
  if last <= cut then
    w.head, w.count = 0, 0
  elseif w.first <= cut then
    skip(w, cut)
  end

  local needed = max(weight, 1)
  if needed > limit then
    w.verdict = -1
  elseif w.count + needed > limit then
    local leaving = w.count + needed - limit -- so many must leave, and the wait is for the last of them
    local time
    if leaving == 1 then time = w.first elseif leaving == w.count then time = w.last else time = entry(w, leaving - 1) end
    w.verdict = time + length - w.time
  end
  return w
end

-- Writes an admission into a window that was looked at, and has room.
local function charge(w)
  if w.count == 0 then w.head, w.first = 0, w.time end
  local before, count, time = w.count, w.count + w.weight, pack('<I4', w.time % ROUND)
  w.last, w.count = w.time, count

  if count <= w.capacity and (w.capacity <= 64 or count * 8 >= w.capacity) then
    local at = (w.head + before) % w.capacity
    local fitting = min(w.weight, w.capacity - at)
    call('SETRANGE', w.key, HEADER + at * 4, fitting == 1 and time or string.rep(time, fitting))
    if fitting < w.weight then call('SETRANGE', w.key, HEADER, string.rep(time, w.weight - fitting)) end
    -- Also where the length has changed: longer, and the key must not go too early; shorter, and it need not stay.
    local renew = w.time + w.length > w.deadline or w.time + 2 * w.length < w.deadline
    if renew then w.deadline = w.time + time_to_live(w.length) end
    call('SETRANGE', w.key, '0', header(w))
    if renew then call('PEXPIRE', w.key, time_to_live(w.length)) end
    return
  end

  -- Laid out anew: the ring is too small, or far too large.
  local live = ''
  if before > 0 then
    local from, to = HEADER + w.head * 4, HEADER + (w.head + before) * 4 - 1
    local over = to - (HEADER + w.capacity * 4 - 1)
    live = call('GETRANGE', w.key, from, to)
    if over > 0 then live = live .. call('GETRANGE', w.key, HEADER, HEADER + over - 1) end
  end
  local room = count < 128 and count * 2 or count + floor(count / 8)
  w.capacity, w.head, w.deadline = max(count, min(max(room, 12), w.limit)), 0, w.time + time_to_live(w.length)
  local free = string.rep('\0', (w.capacity - count) * 4)
  call('SET', w.key, header(w) .. live .. string.rep(time, w.weight) .. free, 'PX', time_to_live(w.length))
end

-- Decides over windows that were looked at, false for one that is off: charges all, or none if one of them refuses.
-- Returns {1 admitted or 0 refused, then for each window: its limit, what remains, in how many ms it is empty, its verdict; all 0 if it is off}.
local function decide(looks)
  local answer = {1, nil, nil, nil, nil} -- with room for one window
  for _, w in ipairs(looks) do
    if w and w.verdict ~= 0 then answer[1] = 0 end
  end
  for i, w in ipairs(looks) do
    local at = i * 4 - 2
    if w then
      if answer[1] == 1 and w.weight > 0 then charge(w) end
      answer[at], answer[at + 1] = w.limit, max(w.limit - w.count, 0)
      answer[at + 2], answer[at + 3] = w.count > 0 and w.last + w.length - w.time or 0, w.verdict
    else
      answer[at], answer[at + 1], answer[at + 2], answer[at + 3] = 0, 0, 0, 0
    end
  end
  return answer
end

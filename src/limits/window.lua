-- Exact sliding windows, each in one string: a header, then a ring of the times of the last admissions, four bytes each.
-- The same as window.rs, which says what it all means; tests/it/limits.rs drives both with the same calls.
--
-- A decision reads the header and O(log n) entries, by way of a search for the first that still counts. A refusal writes nothing, unless the
-- clock has stepped back. An admission writes its entries and the header; now and then the ring is laid out anew, twice as large, or an eighth
-- larger where it is large already.
--
-- The header, 44 bytes: <I4 magic, I4 capacity, I4 head, I4 count, I4 first, I8 last, I8 ahead, I8 deadline. The magic is "WWL1"; another layout
-- gets another one. Head is where the oldest entry is; first and last are the times of the oldest and the newest; deadline is when the key ends.
--
-- Times are those of the log: the clock's plus `ahead`. Those in the ring, and `first`, are their low 32 bits. A charge leaves nothing in the ring
-- that is older than a length before `last`, and a length is less than 2^31, so `last` tells what the whole time is.
--
-- A script is made anew for each call, and every function and every local that a function captures costs something each time. Hence few
-- functions, and plain numbers: 44 for the header's size, 4294967296 for 2^32.

local call, unpack = redis.call, struct.unpack

-- The time of the i-th oldest entry, from 0. In a string that something else has cut this is an error, for a length at most: then `last` says that
-- all have left.
local function entry(w, i)
  local at = 44 + (w.head + i) % w.capacity * 4
  return w.last - (w.last - unpack('<I4', call('GETRANGE', w.key, at, at + 3))) % 4294967296
end

local function header(w)
  local first = w.first % 4294967296
  return struct.pack('<I4I4I4I4I4I8I8I8', 827086679, w.capacity, w.head, w.count, first, w.last, w.ahead, w.deadline)
end

-- What a window says to one who asks now, in `verdict`: 0 there is room, n there is in n ms, -1 never.
local function judge(w)
  local needed = w.weight > 0 and w.weight or 1
  local leaving = w.count + needed - w.limit -- so many must leave first, and the wait is for the last of them
  if needed > w.limit then
    w.verdict = -1
  elseif leaving > 0 then
    local time
    if leaving == 1 then time = w.first elseif leaving == w.count then time = w.last else time = entry(w, leaving - 1) end
    w.verdict = time + w.length - w.time
  end
end

-- A window as it is now.
local function look(key, limit, length, weight, now)
  local stored = redis.pcall('GETRANGE', key, '0', '43')
  local magic, capacity, head, count, first, last, ahead, deadline
  if #stored == 44 then
    magic, capacity, head, count, first, last, ahead, deadline = unpack('<I4I4I4I4I4I8I8I8', stored)
  elseif stored.err and not string.find(stored.err, 'WRONGTYPE', 1, true) then
    error(stored.err)
  end
  if magic ~= 827086679 or count > capacity or head >= capacity then
    -- There is nothing, or no window in this layout. Whatever it is, and of whatever type, counts as an empty window and is replaced by the first
    -- admission: trusting it could admit for ever, an error would refuse for ever.
    capacity, head, count, first, last, ahead, deadline = 0, 0, 0, now, now, 0, 0
  end
  -- All fields at once, since a table that grows is slow.
  local w = {
    key = key, limit = limit, length = length, weight = weight, verdict = 0, time = now + ahead, capacity = capacity,
    head = head, count = count, first = last - (last - first) % 4294967296, last = last, ahead = ahead, deadline = deadline,
  }
  if w.time < last then
    -- The clock went back. This is written even if nothing is charged: if it were not, the clock would stand still for those who are refused.
    -- The key stays until the same time by the clock; the next charge sees that this is too long.
    w.time, w.ahead, w.deadline = last, last - now, deadline + last - now - ahead
    call('SETRANGE', key, '0', header(w))
  end

  local cut = w.time - length -- what is not later has left
  if last <= cut then
    w.head, w.count = 0, 0
  elseif w.first <= cut then
    -- By leaps, each twice as far, since few leave at a time; then by halves. The entry `outside` has left, the entry `inside` has not.
    local outside, inside, step, oldest = 0, count - 1, 1, last
    while inside - outside > 1 do
      local i = step and outside + step or math.floor((outside + inside) / 2)
      if i >= inside then
        step = nil
      else
        local time = entry(w, i)
        if time > cut then
          inside, oldest, step = i, time, nil
        else
          outside, step = i, step and step * 2
        end
      end
    end
    w.head, w.count, w.first = (head + inside) % capacity, count - inside, oldest
  end

  judge(w)
  return w
end

-- Writes admissions into a window that was looked at, and has room for so much.
local function charge(w, weight)
  if w.count == 0 then w.head, w.first = 0, w.time end
  local key, capacity, before = w.key, w.capacity, w.count
  local count, time = before + weight, struct.pack('<I4', w.time % 4294967296)
  -- A part of the length on top, so that not every admission has to say anew how long the key stays.
  local life = math.floor(w.length * 1.25) + 1
  w.count, w.last = count, w.time

  if count <= capacity and (capacity <= 64 or count * 8 >= capacity) then
    local at = (w.head + before) % capacity
    if weight == 1 then
      call('SETRANGE', key, 44 + at * 4, time)
    else
      local fitting = math.min(weight, capacity - at)
      call('SETRANGE', key, 44 + at * 4, string.rep(time, fitting))
      if fitting < weight then call('SETRANGE', key, 44, string.rep(time, weight - fitting)) end
    end
    -- Also where the length has changed: longer, and the key must not go too early; shorter, and it need not stay.
    local renew = w.time + w.length > w.deadline or w.time + 2 * w.length < w.deadline
    if renew then w.deadline = w.time + life end
    call('SETRANGE', key, '0', header(w))
    if renew then call('PEXPIRE', key, life) end
    return
  end

  -- Laid out anew: the ring is too small, or far too large.
  local live = ''
  if before > 0 then
    local over = w.head + before - capacity
    live = call('GETRANGE', key, 44 + w.head * 4, 43 + (w.head + before) * 4)
    if over > 0 then live = live .. call('GETRANGE', key, 44, 43 + over * 4) end
  end
  local room = count < 512 and math.max(count * 2, 12) or count + math.floor(count / 8)
  w.capacity, w.head, w.deadline = math.max(count, math.min(room, w.limit)), 0, w.time + life
  local free = string.rep('\0', (w.capacity - count) * 4)
  call('SET', key, header(w) .. live .. string.rep(time, weight) .. free, 'PX', life)
end

-- Decides over windows that were looked at, false for one that is off, for so many who ask the same one after the other: each is charged to all windows,
-- or to none if one of them refuses.
-- Returns {how many were admitted, then for each window: its limit, what remains, in how many ms it is empty, its verdict on the next if not all were
-- admitted; all 0 if it is off}.
local function decide(looks, times)
  local admitted = times
  for i = 1, #looks do
    local w = looks[i]
    if w then
      if w.verdict ~= 0 then admitted = 0 elseif w.weight > 0 then admitted = math.min(admitted, math.floor((w.limit - w.count) / w.weight)) end
    end
  end
  local answer = {admitted, nil, nil, nil, nil} -- with room for one window
  for i = 1, #looks do
    local w, at = looks[i], i * 4 - 2
    if w then
      if admitted > 0 and w.weight > 0 then
        charge(w, w.weight * admitted)
        if admitted < times then judge(w) end
      end
      answer[at], answer[at + 1] = w.limit, w.count < w.limit and w.limit - w.count or 0
      answer[at + 2], answer[at + 3] = w.count > 0 and w.last + w.length - w.time or 0, w.verdict
    else
      answer[at], answer[at + 1], answer[at + 2], answer[at + 3] = 0, 0, 0, 0
    end
  end
  return answer
end

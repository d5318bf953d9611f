-- Decides for many requests at once, one after the other, and for each of them about all its windows: either all of
-- them admit it and count it, or none does.
--
-- The windows are those of limits/window.py, and so is the promise: no interval of a window's length sees more than its
-- limit, and a client is refused early by at most 1/16 of it. docs/design/limits.md explains batches and gates. Here the
-- time is the server's, in whole microseconds (a double holds them exactly), and a key holds doubles:
--
--     fill | the newest batch's time | … | the oldest batch's time
--
-- A time of 0 has always expired. A key that nothing is left in expires by itself.
--
-- KEYS: a key for each window of each request, in order.
-- ARGV: the time, "" for the server's own (tests give another); then for each request the number of its windows, and
--       for each of these its limit, its length in microseconds and what the request costs, 1 to the limit.
-- The answer has a number for each request: 0 for admitted, above 0 the microseconds to wait, and below 0 the number of
-- the window (from -1 on) whose key holds something else. Nothing is counted then, and the key is left as it is.

local floor, ceil = math.floor, math.ceil

local now
if ARGV[1] == '' then
  local time = redis.call('TIME')
  now = tonumber(time[1]) * 1000000 + tonumber(time[2])
else
  now = tonumber(ARGV[1])
end

local function write(key, window, slots, fill, times)
  local data = struct.pack('>' .. string.rep('d', slots + 1), fill, unpack(times))
  redis.call('SET', key, data, 'PX', ceil(window / 1000) + 1)
end

-- The fill and the times that a key holds, no times for a key that is not there, and nothing for what is not a window.
local function read(key, window, slots, batch)
  local state = redis.pcall('GET', key)
  if not state then
    return batch
  end
  if type(state) ~= 'string' or #state ~= 8 * (slots + 1) then
    return nil
  end
  local times = { struct.unpack('>' .. string.rep('d', slots + 1), state) }
  local fill = table.remove(times, 1)
  times[slots + 1] = nil -- where unpack stopped
  if not (fill >= 1 and fill <= batch and fill == floor(fill)) then
    return nil
  end
  local changed = false
  for slot = 1, slots do
    if not (times[slot] >= 0) then
      return nil
    end
    -- The server's clock went back, or another server has taken over. What lies in the future may be as new as now, and
    -- no newer: so it counts for one window more, instead of until the clock has caught up. This has to last, whatever
    -- is decided, or it would lie in the future again at the next look.
    if times[slot] > now then
      times[slot] = now
      changed = true
    end
  end
  if changed then
    write(key, window, slots, fill, times)
  end
  return fill, times
end

-- Microseconds to wait, or 0 and what `write` is to be given; nothing for a key that holds something else.
local function advance(key, limit, window, cost)
  local batch = ceil(limit / 16)
  local slots = ceil(limit / batch)
  local gate = limit - (slots - 1) * batch
  local line = now - window
  local fill, times = read(key, window, slots, batch)
  if not fill then
    return nil
  end
  if not times or times[1] <= line then
    -- Nothing counts any more. A partly filled batch must not pass its dead units on to the next window.
    fill, times = batch, {}
    for slot = 1, slots do
      times[slot] = 0
    end
  end

  -- :: Step 1: the last gate on the way decides, for it asks for the newest time
  local finish = fill + cost
  local passed = floor((finish - gate - 1) / batch)
  if passed > 0 or (passed == 0 and fill <= gate) then
    local oldest = times[slots - passed]
    if oldest > line then
      return oldest - line
    end
  end

  -- :: Step 2: the newest batch takes what it has room for, then new ones are begun
  if fill < batch then
    times[1] = now
  end
  local begun = floor((finish - 1) / batch)
  if begun > 0 then
    for slot = slots, 1, -1 do
      times[slot] = slot > begun and times[slot - begun] or now
    end
  end
  return 0, { key, window, slots, finish - begun * batch, times }
end

local answers = {}
local key, argument = 0, 2
while ARGV[argument] do
  local count = tonumber(ARGV[argument])
  local answer, states = 0, {}
  for number = 1, count do
    local at = argument + 3 * number
    local wait, state = advance(KEYS[key + number], tonumber(ARGV[at - 2]), tonumber(ARGV[at - 1]), tonumber(ARGV[at]))
    if not wait then
      answer = -number
      break
    end
    states[number] = state
    if wait > answer then
      answer = wait
    end
  end
  if answer == 0 then
    for number = 1, count do
      write(unpack(states[number]))
    end
  end
  answers[#answers + 1] = answer
  key = key + count
  argument = argument + 1 + 3 * count
end
return answers

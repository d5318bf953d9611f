-- Decides for many requests at once, one after the other. Each has questions, and each question has windows: it has to
-- wait where one of its windows has no room. Where a question that binds has to wait, nothing of the request is counted
-- anywhere; otherwise every question that need not wait is counted in all its windows.
--
-- The windows are those of limits/window.py, and so is the promise: no interval of a window's length sees more than its
-- limit, and a client is refused early by at most 1/16 of it. docs/design/limits.md explains batches and gates. Here the
-- time is the server's, in whole microseconds (a double holds them exactly), and a key holds doubles:
--
--     fill | the newest batch's time | … | the oldest batch's time
--
-- A time of 0 has always expired. A key that nothing is left in expires by itself.
--
-- KEYS: a key for each window of each question of each request, in order.
-- ARGV: the time, "" for the server's own (tests give another); then for each request the number of its questions; for
--       each question whether it binds, whether it is to be told what is left (1 or 0), its cost and the number of its
--       windows; for each window its limit, which is not below the cost, and its length in microseconds.
-- The answer is flat. For each question: 0 where it need not wait, above 0 the microseconds to wait, below 0 the number
-- of the window (from -1 on) whose key holds something else: that is left as it is, and the question is not counted.
-- Behind it, where it is to be told, for each window the units that are left, and the microseconds until there are more.

local floor, ceil = math.floor, math.ceil

local now
if ARGV[1] == '' then
  local time = redis.call('TIME')
  now = tonumber(time[1]) * 1000000 + tonumber(time[2])
else
  now = tonumber(ARGV[1])
end

local function write(state)
  local data = struct.pack('>' .. string.rep('d', state.slots + 1), state.fill, unpack(state.times))
  redis.call('SET', state.key, data, 'PX', ceil(state.window / 1000) + 1)
end

-- Nothing counts. A batch that is partly filled must not pass its dead units on to the next window, so it is full.
local function clear(state)
  state.fill = state.batch
  for slot = 1, state.slots do
    state.times[slot] = 0
  end
end

-- What a key holds; nothing where that is no window.
local function read(key, limit, window)
  local batch = ceil(limit / 16)
  local slots = ceil(limit / batch)
  local state = { key = key, limit = limit, window = window, batch = batch, slots = slots, times = {} }
  state.gate = limit - (slots - 1) * batch
  state.line = now - window
  local data = redis.pcall('GET', key)
  if not data then
    clear(state)
    return state
  end
  if type(data) ~= 'string' or #data ~= 8 * (slots + 1) then
    return nil
  end
  local held = { struct.unpack('>' .. string.rep('d', slots + 1), data) }
  local fill = held[1]
  if not (fill >= 1 and fill <= batch and fill == floor(fill)) then
    return nil
  end
  state.fill = fill
  local changed = false
  for slot = 1, slots do
    local time = held[slot + 1]
    if not (time >= 0) then
      return nil
    end
    -- The server's clock went back, or another server has taken over. What lies in the future may be as new as now, and
    -- no newer: so it counts for one window more, instead of until the clock has caught up. This has to last, whatever
    -- is decided, or it would lie in the future again at the next look.
    if time > now then
      time = now
      changed = true
    end
    state.times[slot] = time
  end
  if changed then
    write(state)
  end
  if state.times[1] <= state.line then
    clear(state)
  end
  return state
end

-- Microseconds until so many units more are admitted.
local function wait(state, cost)
  -- The last gate on the way decides, for it asks for the newest time.
  local passed = floor((state.fill + cost - state.gate - 1) / state.batch)
  if passed > 0 or (passed == 0 and state.fill <= state.gate) then
    local oldest = state.times[state.slots - passed]
    if oldest > state.line then
      return oldest - state.line
    end
  end
  return 0
end

-- Count so many units, which are admitted.
local function count(state, cost)
  local times = state.times
  -- The newest batch takes what it has room for, then new ones are begun.
  if state.fill < state.batch then
    times[1] = now
  end
  local finish = state.fill + cost
  local begun = floor((finish - 1) / state.batch)
  if begun > 0 then
    for slot = state.slots, 1, -1 do
      times[slot] = slot > begun and times[slot - begun] or now
    end
  end
  state.fill = finish - begun * state.batch
  write(state)
end

-- The units that are admitted at once.
local function left(state)
  local live = 0
  while live < state.slots and state.times[live + 1] > state.line do
    live = live + 1
  end
  if live == 0 then
    return state.limit
  end
  return state.gate + (state.slots - live) * state.batch - state.fill
end

local answers = {}
local key, argument = 0, 1

local function next_argument()
  argument = argument + 1
  return tonumber(ARGV[argument])
end

while ARGV[argument + 1] do
  -- :: Step 1, ask
  local questions, refused = {}, false
  for number = 1, next_argument() do
    local question = { binds = next_argument() == 1, tell = next_argument() == 1, cost = next_argument(), wait = 0 }
    question.count = next_argument()
    for window = 1, question.count do
      key = key + 1
      local state = read(KEYS[key], next_argument(), next_argument())
      question[window] = state
      if not state then
        question.wait = -window
      elseif question.wait >= 0 then
        question.wait = math.max(question.wait, wait(state, question.cost))
      end
    end
    refused = refused or (question.binds and question.wait ~= 0)
    questions[number] = question
  end
  -- :: Step 2, count
  for _, question in ipairs(questions) do
    if not refused and question.wait == 0 then
      for window = 1, question.count do
        count(question[window], question.cost)
      end
    end
  end
  -- :: Step 3, tell
  for _, question in ipairs(questions) do
    answers[#answers + 1] = question.wait
    for window = 1, question.tell and question.count or 0 do
      local state = question[window]
      local units = state and left(state) or 0
      answers[#answers + 1] = units
      answers[#answers + 1] = (state and units < state.limit) and wait(state, units + 1) or 0
    end
  end
end
return answers

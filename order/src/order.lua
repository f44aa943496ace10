-- The order service's functions. Loaded behind common/src/redis/prelude.lua.
--
-- Keys (the dictionary is in order/src/undo.rs and order/src/command.rs): order:<id>, undo:<saga>, open, retry, retry_started, totals, watermark,
-- replaced, replaced:<order>.<incarnation>, operation:<key>.

-- Creates an order without items.
--   KEYS  1 operation  2 order
--   ARGV  1 fingerprint  2 ttl_s  3 order id  4 user id  5 incarnation
-- Returns { 'ok', order id } | { 'key_mismatch' }
local function create(keys, args)
  return once(keys, args, function()
    redis.call('HSET', keys[2], 'user', args[4], 'items', '', 'total', '0', 'paid', '0', 'incarnation', args[5], 'attempt', '0', 'saga', '')
    return { 'ok', args[3] }
  end)
end

-- The sum of an item's quantities in `id:quantity,…`, and the number of entries.
local function ordered(items, item)
  local sum, entries = 0, 0
  for id, quantity in string.gmatch(items, '([^:,]+):(%d+)') do
    entries = entries + 1
    if id == item then
      sum = sum + tonumber(quantity)
    end
  end
  return sum, entries
end

-- Adds an entry to an order.
--   KEYS  1 operation  2 order
--   ARGV  1 fingerprint  2 ttl_s  3 item id  4 quantity  5 cost of these pieces, empty for an item that is not there, ? where nobody can
--         say it: then only a repeat is answered  6 most entries
-- Returns { 'ok', total } | { 'no_order' } | { 'no_item' } | { 'no_price' } | { 'paid' } | { 'in_flight', saga } | { 'overflow' } | { 'too_many' } | { 'key_mismatch' }
local function add_item(keys, args)
  if args[5] == '?' and redis.call('EXISTS', keys[1]) == 0 then
    return { 'no_price' }
  end
  return once(keys, args, function()
    local user, items, total, paid, saga = unpack(redis.call('HMGET', keys[2], 'user', 'items', 'total', 'paid', 'saga'))
    if not user then
      return { 'no_order' }
    elseif args[5] == '' then
      return { 'no_item' }
    elseif paid == '1' then
      return { 'paid' }
    elseif saga ~= '' then
      return { 'in_flight', saga }
    end
    local sum, entries = ordered(items, args[3])
    if entries >= tonumber(args[6]) then
      return { 'too_many' }
    elseif tonumber(total) + tonumber(args[5]) > MAX or sum + tonumber(args[4]) > MAX then
      return { 'overflow' }
    end
    total = digits(tonumber(total) + tonumber(args[5]))
    local entry = args[3] .. ':' .. args[4]
    redis.call('HSET', keys[2], 'items', items == '' and entry or items .. ',' .. entry, 'total', total)
    return { 'ok', total }
  end)
end

-- Where the record of an order stays that was replaced while its sagas can still be asked about.
local function replaced_key(order, incarnation)
  return 'replaced:' .. order .. '.' .. incarnation
end

-- Has a replaced order's record forgotten once the watermark has passed, by its margin, all that its sagas can have started at:
-- `raise_watermark` does it.
local function forget_later(key, started)
  redis.call('ZADD', 'replaced', digits(math.max(now_ms(), started, tonumber(redis.call('GET', 'watermark') or '0'))), key)
end

-- Puts the record of an order that had sagas aside, before another takes its place: only it knows that they are over once their undo
-- entries have expired.
local function retire(order, id, successor)
  local incarnation, paid, attempt, saga = unpack(redis.call('HMGET', order, 'incarnation', 'paid', 'attempt', 'saga'))
  if incarnation and incarnation ~= successor and (paid == '1' or attempt ~= '0' or saga ~= '') then
    local aside = replaced_key(id, incarnation)
    redis.call('RENAME', order, aside)
    forget_later(aside, saga ~= '' and tonumber(redis.call('HGET', 'undo:' .. saga, 'started_ms')) or 0)
  end
end

-- Creates or replaces orders first, first + 1, …
--   KEYS  1 operation  (the orders' keys are made here, and those of the records that replaced ones leave; it reads `watermark`)
--   ARGV  1 fingerprint  2 ttl_s  3 owner  4 last  5 lease_s  6 first  7 total  8… user, items and incarnation of each order
-- Returns { 'ok' } | { 'done' } | { 'running' } | { 'key_mismatch' }
local function batch_init(keys, args)
  return chunk(keys, args, function()
    local index = tonumber(args[6])
    for n = 8, #args, 3 do
      local order = 'order:' .. digits(index)
      retire(order, digits(index), args[n + 2])
      redis.call('HSET', order, 'user', args[n], 'items', args[n + 1], 'total', args[7], 'paid', '0', 'incarnation', args[n + 2], 'attempt', '0', 'saga', '')
      index = index + 1
    end
  end)
end

-- Appends to a list, each value once. Inboxes are separated by commas; operation keys by line ends, because a client's key may have any
-- visible character in it.
local function append(list, separator, value)
  if value == '' then
    return list
  end
  for known in string.gmatch(list, '[^' .. separator .. ']+') do
    if known == value then
      return list
    end
  end
  return list == '' and value or list .. separator .. value
end

-- Binds a client's operation key to what became of its checkout so far.
local function remember(keys, args, outcome, saga)
  if args[1] ~= '' then
    redis.call('SET', keys[1], cjson.encode({ args[1], outcome, saga, '', args[6] }), 'EX', args[2])
  end
end

-- Opens a saga for an order, or joins the one that is open.
--   KEYS  1 operation, or empty  2 order  3 open  4 totals  5 watermark  6 retry
--   ARGV  1 fingerprint, empty without a client's key  2 ttl_s  3 inbox of the waiting instance  4 traceparent  5 order id
--         6 token of the request, so that this very call is known when it is sent a second time  7 most sagas that may be open
-- Returns { 'started' | 'joined', saga, started_ms, user, amount, items, traceparent, round } | { 'paid' } | { 'no_order' }
--       | { 'running', saga } | { 'recorded', 'completed' | 'failed' | 'no_order', saga, reason } | { 'key_mismatch' } | { 'overloaded' }
local function begin(keys, args)
  local recorded = args[1] ~= '' and redis.call('GET', keys[1])
  if recorded then
    local fingerprint, outcome, saga, reason, request = unpack(cjson.decode(recorded))
    if fingerprint ~= args[1] then
      return { 'key_mismatch' }
    elseif outcome == 'running' and request ~= args[6] then
      return { 'running', saga }
    elseif outcome ~= 'running' then
      return { 'recorded', outcome, saga, reason }
    end
    -- Sent again by the writer, which had lost the connection with the answer: nobody else uses the key. It joins what it began.
  end
  local user, items, total, paid, incarnation, attempt, saga =
    unpack(redis.call('HMGET', keys[2], 'user', 'items', 'total', 'paid', 'incarnation', 'attempt', 'saga'))
  if not user then
    remember(keys, args, 'no_order', '')
    return { 'no_order' }
  elseif paid == '1' then
    remember(keys, args, 'completed', '')
    return { 'paid' }
  end
  local operation = args[1] ~= '' and keys[1] or ''
  if saga ~= '' then
    local undo = 'undo:' .. saga
    local started, of, amount, entries, trace, round, inboxes, operations =
      unpack(redis.call('HMGET', undo, 'started_ms', 'user', 'amount', 'items', 'traceparent', 'round', 'inboxes', 'operations'))
    if started then
      redis.call('HSET', undo, 'inboxes', append(inboxes, ',', args[3]), 'operations', append(operations or '', '\n', operation))
      remember(keys, args, 'running', saga)
      return { 'joined', saga, started, of, amount, entries, trace, round or '0' }
    end
  elseif redis.call('ZCARD', keys[3]) + redis.call('ZCARD', keys[6]) >= tonumber(args[7]) then
    return { 'overloaded' }
  end
  saga = args[5] .. '.' .. incarnation .. '.' .. attempt
  -- Never before the watermark, even if the clock is set back: such a saga would be refused as too old.
  local started = digits(math.max(now_ms(), tonumber(redis.call('GET', keys[5]) or '0')))
  local undo = 'undo:' .. saga
  redis.call('HSET', undo, 'state', 'started', 'order', args[5], 'user', user, 'amount', total, 'items', items, 'started_ms', started,
    'inboxes', args[3], 'traceparent', args[4])
  if operation ~= '' then
    redis.call('HSET', undo, 'operations', operation)
  end
  redis.call('ZADD', keys[3], started, saga)
  redis.call('HSET', keys[2], 'saga', saga)
  raise(keys[4], 'started', '1')
  remember(keys, args, 'running', saga)
  return { 'started', saga, started, user, total, items, args[4], '0' }
end

-- What the order record says about a saga whose undo entry is gone: 'completed', 'failed', 'open', or nil where there is none of the saga's
-- incarnation. Second, the record's key: the order's own, or that of an order that was replaced.
local function verdict_of_order(order, id, incarnation, attempt)
  local paid, current, next_attempt = unpack(redis.call('HMGET', order, 'paid', 'incarnation', 'attempt'))
  if current ~= incarnation then
    order = replaced_key(id, incarnation)
    paid, current, next_attempt = unpack(redis.call('HMGET', order, 'paid', 'incarnation', 'attempt'))
  end
  if current ~= incarnation then
    return nil, order
  elseif tonumber(next_attempt) > tonumber(attempt) then
    return 'failed', order
  elseif paid == '1' then
    return 'completed', order
  end
  return 'open', order
end

-- Tells the operation keys that are bound to a saga how it ended. A key that has lived its time may be bound to another saga by now.
local function settle(operations, saga, outcome, reason)
  for operation in string.gmatch(operations, '[^\n]+') do
    local recorded = redis.call('GET', operation)
    local record = recorded and cjson.decode(recorded)
    if record and record[3] == saga then
      redis.call('SET', operation, cjson.encode({ record[1], outcome, saga, reason }), 'KEEPTTL')
    end
  end
end

-- Closes an undo entry, once, and with it the order's open saga.
--   KEYS  1 undo  2 order  3 open  4 retry  5 retry_started  6 totals  7 watermark
--   ARGV  1 saga  2 'completed' | 'failed'  3 reason, empty for completed  4 steps  5 retention_s  6 incarnation  7 attempt  8 order id
--         9 user id  10 amount  11 items  12 started_ms
-- Returns { 'closed', inboxes } | { 'repeat', state, reason } | { 'ended_twice', state } | { 'conflict', recorded } | { 'too_old', watermark }
local function close(keys, args)
  local state, reason, user, amount, inboxes, operations =
    unpack(redis.call('HMGET', keys[1], 'state', 'reason', 'user', 'amount', 'inboxes', 'operations'))
  if state and (user ~= args[9] or amount ~= args[10]) then
    return { 'conflict', user .. ' ' .. amount }
  elseif not state then
    local verdict = verdict_of_order(keys[2], args[8], args[6], args[7])
    if verdict == 'completed' or verdict == 'failed' then
      -- The recorded reason went with the entry. Who brings the end again brings the reason that its own service has recorded.
      state, reason = verdict, args[3]
    elseif is_forgotten(keys[7], args[12]) then
      return { 'too_old', is_forgotten(keys[7], args[12]) }
    end
  end
  if state == args[2] then
    return { 'repeat', state, reason or '' }
  elseif state and state ~= 'started' then
    return { 'ended_twice', state }
  end
  if not state then
    -- The entry was lost with the tail of a failover. The event carries all that it held.
    raise(keys[6], 'recovered', '1')
    redis.call('HSET', keys[1], 'order', args[8], 'user', args[9], 'amount', args[10], 'items', args[11], 'started_ms', args[12], 'round', '0')
  end
  redis.call('HSET', keys[1], 'state', args[2], 'steps', args[4], 'closed_ms', digits(now_ms()))
  if args[3] ~= '' then
    redis.call('HSET', keys[1], 'reason', args[3])
  end
  redis.call('EXPIRE', keys[1], args[5])
  if redis.call('ZREM', keys[3], args[1]) == 0 then
    redis.call('ZREM', keys[4], args[1])
    redis.call('ZREM', keys[5], args[1])
  end
  local verdict, order = verdict_of_order(keys[2], args[8], args[6], args[7])
  if not verdict then
    -- The order's record was lost, or replaced when it knew of no saga. The saga's end outlives the undo entry all the same.
    redis.call('HSET', order, 'paid', '0', 'incarnation', args[6], 'attempt', args[7])
    forget_later(order, tonumber(args[12]))
    verdict = 'open'
  end
  if verdict == 'open' then
    if args[2] == 'completed' then
      redis.call('HSET', order, 'paid', '1', 'saga', '')
    else
      redis.call('HSET', order, 'attempt', digits(tonumber(args[7]) + 1), 'saga', '')
    end
  end
  raise(keys[6], args[2], '1')
  raise(keys[6], args[2] .. '_amount', args[10])
  if operations and operations ~= '' then
    settle(operations, args[1], args[2], args[3])
  end
  return { 'closed', inboxes or '' }
end

-- Makes a saga's start true again that was told, and that a failover has lost; with it the order, where that is lost too.
--   KEYS  1 undo  2 order  3 open  4 totals  5 watermark
--   ARGV  1 saga  2 order id  3 user id  4 amount  5 items  6 started_ms  7 incarnation  8 attempt  9 traceparent  10 round
-- Returns { 'redone' } | { 'known' } | { 'conflict', recorded } | { 'too_old', watermark }
local function redo_start(keys, args)
  local state, user, amount = unpack(redis.call('HMGET', keys[1], 'state', 'user', 'amount'))
  if state and (user ~= args[3] or amount ~= args[4]) then
    return { 'conflict', user .. ' ' .. amount }
  elseif state then
    return { 'known' }
  end
  local verdict, order = verdict_of_order(keys[2], args[2], args[7], args[8])
  if verdict == 'completed' or verdict == 'failed' then
    return { 'known' }
  elseif is_forgotten(keys[5], args[6]) then
    return { 'too_old', is_forgotten(keys[5], args[6]) }
  end
  if verdict == 'open' then
    redis.call('HSET', order, 'attempt', args[8], 'saga', args[1])
  elseif redis.call('EXISTS', keys[2]) == 0 then
    redis.call('HSET', keys[2], 'user', args[3], 'items', args[5], 'total', args[4], 'paid', '0', 'incarnation', args[7], 'attempt', args[8], 'saga', args[1])
  end
  redis.call('HSET', keys[1], 'state', 'started', 'order', args[2], 'user', args[3], 'amount', args[4], 'items', args[5], 'started_ms', args[6],
    'round', args[10], 'inboxes', '', 'operations', '', 'traceparent', args[9])
  redis.call('ZADD', keys[3], args[6], args[1])
  raise(keys[4], 'started', '1')
  return { 'redone' }
end

-- Claims sagas that are due for the reconciler. The claim is a lease: the next due time is set at once, with backoff and jitter, so an
-- instance that dies with its claim is followed by any other.
--   KEYS  1 open  2 retry  3 retry_started
--   ARGV  1 most sagas  2 first delay (ms)  3 first backoff (ms)  4 longest backoff (ms)  5 seed of the jitter
-- Returns { 'ok', more: '1' | '0', then for each saga: saga, age_ms, round, started_ms, order, user, amount, items, traceparent }
local function claim(keys, args)
  local now, most = now_ms(), tonumber(args[1])
  math.randomseed(tonumber(args[5]))
  local due = redis.call('ZRANGEBYSCORE', keys[2], '-inf', now, 'LIMIT', 0, most)
  local fresh = redis.call('ZRANGEBYSCORE', keys[1], '-inf', now - tonumber(args[2]), 'WITHSCORES', 'LIMIT', 0, most - #due)
  for n = 1, #fresh, 2 do
    redis.call('ZREM', keys[1], fresh[n])
    redis.call('ZADD', keys[3], fresh[n + 1], fresh[n])
    due[#due + 1] = fresh[n]
  end
  local reply = { 'ok', #due >= most and '1' or '0' }
  for _, saga in ipairs(due) do
    local undo = 'undo:' .. saga
    local entry = redis.call('HMGET', undo, 'state', 'started_ms', 'order', 'user', 'amount', 'items', 'traceparent')
    if entry[1] == 'started' then
      local round = redis.call('HINCRBY', undo, 'round', 1)
      local wait = math.min(tonumber(args[4]), tonumber(args[3]) * 2 ^ (round - 1)) * (0.5 + math.random() / 2)
      redis.call('ZADD', keys[2], digits(now + wait), saga)
      for _, value in ipairs({ saga, digits(now - tonumber(entry[2])), digits(round), unpack(entry, 2) }) do
        reply[#reply + 1] = value
      end
    else
      -- Closed or expired: nothing is left to do.
      redis.call('ZREM', keys[2], saga)
      redis.call('ZREM', keys[3], saga)
    end
  end
  return reply
end

-- Raises the watermark to just before the oldest open saga, and forgets replaced orders whose sagas lie behind it.
--   KEYS  1 open  2 retry_started  3 watermark  4 retry  5 replaced
--   ARGV  1 margin (ms)  2 most replaced orders to forget
-- Returns { 'ok', watermark (ms), open sagas, age of the oldest (ms) }
local function raise_watermark(keys, args)
  local now = now_ms()
  local oldest = now
  for n = 1, 2 do
    local first = redis.call('ZRANGE', keys[n], 0, 0, 'WITHSCORES')
    if first[2] then
      oldest = math.min(oldest, tonumber(first[2]))
    end
  end
  local watermark = math.max(oldest - tonumber(args[1]), tonumber(redis.call('GET', keys[3]) or '0'))
  redis.call('SET', keys[3], digits(watermark))
  -- A margin later, because the clock may have been set back between the start of a saga and the replacement of its order.
  local passed = '(' .. digits(watermark - tonumber(args[1]))
  for _, order in ipairs(redis.call('ZRANGEBYSCORE', keys[5], '-inf', passed, 'LIMIT', 0, args[2])) do
    redis.call('UNLINK', order)
    redis.call('ZREM', keys[5], order)
  end
  local open = redis.call('ZCARD', keys[1]) + redis.call('ZCARD', keys[4])
  return { 'ok', digits(watermark), digits(open), digits(now - oldest) }
end

redis.register_function('order_create' .. VERSION, create)
redis.register_function('order_add_item' .. VERSION, add_item)
redis.register_function('order_batch_init' .. VERSION, batch_init)
redis.register_function('order_begin' .. VERSION, begin)
redis.register_function('order_close' .. VERSION, close)
redis.register_function('order_redo_start' .. VERSION, redo_start)
redis.register_function('order_claim' .. VERSION, claim)
redis.register_function('order_raise_watermark' .. VERSION, raise_watermark)

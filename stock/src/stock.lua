-- The stock service's functions. Loaded behind common/src/redis/prelude.lua.
--
-- Keys (the dictionary is in stock/src/effect.rs): item:<id>, totals, watermark, buckets, outcomes:<number>, operation:<key>.
-- Outcome records: `reserved <items>`, `failed <items> <reason>`, where <items> is `id:quantity,…` or `-` for none.

-- Takes pieces of an item that is known to have them. (`HINCRBY -0` would be an error.)
local function take(item, quantity)
  if quantity == '0' then
    return redis.call('HGET', item, 'stock')
  end
  return digits(redis.call('HINCRBY', item, 'stock', '-' .. quantity))
end

-- Creates an item that has a price and no pieces.
--   KEYS  1 operation  2 item
--   ARGV  1 fingerprint  2 ttl_s  3 the item's id  4 price
-- Returns { 'ok', item id } | { 'key_mismatch' }
local function create_item(keys, args)
  return once(keys, args, function()
    redis.call('HSET', keys[2], 'stock', '0', 'price', args[4])
    return { 'ok', args[3] }
  end)
end

-- Adds pieces.
--   KEYS  1 operation  2 item  3 totals
--   ARGV  1 fingerprint  2 ttl_s  3 amount
-- Returns { 'ok', stock } | { 'no_item' } | { 'overflow', stock } | { 'key_mismatch' }
local function add(keys, args)
  return once(keys, args, function()
    local stock = redis.call('HGET', keys[2], 'stock')
    if not stock then
      return { 'no_item' }
    elseif tonumber(stock) + tonumber(args[3]) > MAX then
      return { 'overflow', stock }
    end
    raise(keys[3], 'added', args[3])
    return { 'ok', digits(redis.call('HINCRBY', keys[2], 'stock', args[3])) }
  end)
end

-- Takes pieces directly, outside of any saga.
--   KEYS  1 operation  2 item  3 totals
--   ARGV  1 fingerprint  2 ttl_s  3 amount
-- Returns { 'ok', stock } | { 'no_item' } | { 'short', stock } | { 'key_mismatch' }
local function subtract(keys, args)
  return once(keys, args, function()
    local stock = redis.call('HGET', keys[2], 'stock')
    if not stock then
      return { 'no_item' }
    elseif tonumber(stock) < tonumber(args[3]) then
      return { 'short', stock }
    end
    raise(keys[3], 'subtracted', args[3])
    return { 'ok', take(keys[2], args[3]) }
  end)
end

-- Creates or replaces items first, first + 1, …, all alike.
--   KEYS  1 operation  2 totals  (the items' keys are made here)
--   ARGV  1 fingerprint  2 ttl_s  3 owner  4 last  5 lease_s  6 first  7 count  8 stock  9 price
-- Returns { 'ok' } | { 'done' } | { 'running' } | { 'key_mismatch' }
local function batch_init(keys, args)
  return chunk(keys, args, function()
    for index = tonumber(args[6]), tonumber(args[6]) + tonumber(args[7]) - 1 do
      local item = 'item:' .. digits(index)
      local replaced = redis.call('HGET', item, 'stock')
      raise(keys[2], 'initial', args[8])
      if replaced then
        raise(keys[2], 'replaced', replaced)
      end
      redis.call('HSET', item, 'stock', args[8], 'price', args[9])
    end
  end)
end

-- Splits `<outcome> <items>[ <reason>]`. What a later version has to add comes behind, as words `name=value`, and is left alone.
local function read(recorded)
  local outcome, items = string.match(recorded, '^(%S+) (%S+)')
  return outcome, items, string.match(recorded .. ' ', '^%S+ %S+ ([^%s=]+) ')
end

-- What is already decided about a saga, or why nothing may be decided any more; nil where the decision is open, and whether the saga's
-- bucket is in the index.
local function decided(keys, args)
  local recorded, home, indexed = find(keys[4], keys[3], args[1])
  if recorded then
    local outcome, items, reason = read(recorded)
    if items ~= args[3] then
      return { 'conflict', recorded }
    end
    keep(home, keys[4], keys[3], args[1], recorded)
    return { outcome, reason }
  end
  local forgotten = is_forgotten(keys[2], args[2])
  if forgotten then
    return { 'too_old', forgotten }
  end
  return nil, indexed
end

local function fail(keys, args, reason, indexed)
  record(keys[4], keys[3], args[1], 'failed ' .. args[3] .. ' ' .. reason, indexed)
  return { 'failed', reason }
end

-- Takes every item of a saga, or none. The record that this writes is the saga's commit point.
--   KEYS  1 totals  2 watermark  3 buckets  4 bucket  5… the items
--   ARGV  1 saga  2 started_ms  3 items as text  4… id and quantity of each item, in the order of KEYS
-- Returns { 'reserved' } | { 'failed', reason } | { 'conflict', recorded } | { 'too_old', watermark }
local function reserve(keys, args)
  local answer, indexed = decided(keys, args)
  if answer then
    return answer
  end
  for n = 5, #keys do
    local id, quantity = args[2 * n - 6], args[2 * n - 5]
    local stock = redis.call('HGET', keys[n], 'stock')
    if not stock then
      return fail(keys, args, 'unknown_item:' .. id, indexed)
    elseif tonumber(stock) < tonumber(quantity) then
      return fail(keys, args, 'out_of_stock:' .. id, indexed)
    end
  end
  -- The total is raised once, or once for each 2^53 pieces: larger sums are not exact.
  local pieces = 0
  for n = 5, #keys do
    take(keys[n], args[2 * n - 5])
    local quantity = tonumber(args[2 * n - 5])
    if pieces + quantity > MAX then
      raise(keys[1], 'reserved', digits(pieces))
      pieces = 0
    end
    pieces = pieces + quantity
  end
  raise(keys[1], 'reserved', digits(pieces))
  record(keys[4], keys[3], args[1], 'reserved ' .. args[3], indexed)
  return { 'reserved' }
end

-- Decides against a saga that is past its time limit, unless it is decided already.
--   KEYS  1 totals  2 watermark  3 buckets  4 bucket
--   ARGV  1 saga  2 started_ms  3 items as text  4 reason
-- Returns { 'reserved' } | { 'failed', reason } | { 'conflict', recorded } | { 'too_old', watermark }
local function abandon(keys, args)
  local answer, indexed = decided(keys, args)
  return answer or fail(keys, args, args[4], indexed)
end

-- Makes a decision true again that was published, and that a failover has lost. It is not taken a second time: where there are fewer
-- pieces now than it takes, because those that were added are lost too, it stands all the same.
--   KEYS  1 totals  2 watermark  3 buckets  4 bucket  5… the items
--   ARGV  1 saga  2 started_ms  3 items as text  4 'reserved' or 'failed'  5 reason, empty for reserved  6… quantity of each item
-- Returns { 'redone' } | { 'short', pieces that were not there } | { 'known' } | { 'contradiction', recorded } | { 'conflict', recorded }
--       | { 'too_old', watermark }
local function redo(keys, args)
  local recorded, home, indexed = find(keys[4], keys[3], args[1])
  if recorded then
    local outcome, items = read(recorded)
    if items ~= args[3] then
      return { 'conflict', recorded }
    elseif outcome ~= args[4] then
      return { 'contradiction', recorded }
    end
    keep(home, keys[4], keys[3], args[1], recorded)
    return { 'known' }
  elseif is_forgotten(keys[2], args[2]) then
    return { 'too_old', is_forgotten(keys[2], args[2]) }
  end
  local missing = 0
  for n = 5, args[4] == 'reserved' and #keys or 0 do
    local quantity = tonumber(args[n + 1])
    local there = math.min(tonumber(redis.call('HGET', keys[n], 'stock') or '0'), quantity)
    raise(keys[1], 'reserved', args[n + 1])
    if there < quantity then
      missing = missing + quantity - there
      raise(keys[1], 'uncovered', digits(quantity - there))
    end
    if there > 0 then
      take(keys[n], digits(there))
    end
  end
  local entry = args[4] .. ' ' .. args[3] .. (args[5] ~= '' and ' ' .. args[5] or '')
  record(keys[4], keys[3], args[1], entry, indexed)
  if missing > 0 then
    return { 'short', digits(missing) }
  end
  return { 'redone' }
end

redis.register_function('stock_create_item' .. VERSION, create_item)
redis.register_function('stock_add' .. VERSION, add)
redis.register_function('stock_subtract' .. VERSION, subtract)
redis.register_function('stock_batch_init' .. VERSION, batch_init)
redis.register_function('stock_reserve' .. VERSION, reserve)
redis.register_function('stock_abandon' .. VERSION, abandon)
redis.register_function('stock_redo' .. VERSION, redo)
redis.register_function('stock_trim' .. VERSION, trim)

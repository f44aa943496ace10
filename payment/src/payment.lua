-- The payment service's functions. Loaded behind common/src/redis/prelude.lua.
--
-- Keys (the dictionary is in payment/src/effect.rs): user:<id>, totals, watermark, buckets, outcomes:<number>, operation:<key>.
-- Outcome records: `debited <amount> <user>`, `declined <amount> <user> <reason>`, `refunded <amount> <user> <reason>`, `voided <amount> <user> <reason>`.

-- Creates a user with no credit.
--   KEYS  1 operation  2 user
--   ARGV  1 fingerprint  2 ttl_s  3 the user's id
-- Returns { 'ok', user id } | { 'key_mismatch' }
local function create_user(keys, args)
  return once(keys, args, function()
    redis.call('SET', keys[2], '0')
    return { 'ok', args[3] }
  end)
end

-- Adds credit.
--   KEYS  1 operation  2 user  3 totals
--   ARGV  1 fingerprint  2 ttl_s  3 amount
-- Returns { 'ok', credit } | { 'no_user' } | { 'overflow', credit } | { 'key_mismatch' }
local function add_funds(keys, args)
  return once(keys, args, function()
    local credit = redis.call('GET', keys[2])
    if not credit then
      return { 'no_user' }
    elseif tonumber(credit) + tonumber(args[3]) > MAX then
      return { 'overflow', credit }
    end
    raise(keys[3], 'deposited', args[3])
    return { 'ok', digits(redis.call('INCRBY', keys[2], args[3])) }
  end)
end

-- Takes credit directly, outside of any saga.
--   KEYS  1 operation  2 user  3 totals
--   ARGV  1 fingerprint  2 ttl_s  3 amount
-- Returns { 'ok', credit } | { 'no_user' } | { 'no_credit', credit } | { 'key_mismatch' }
local function pay(keys, args)
  return once(keys, args, function()
    local credit = redis.call('GET', keys[2])
    if not credit then
      return { 'no_user' }
    elseif tonumber(credit) < tonumber(args[3]) then
      return { 'no_credit', credit }
    end
    raise(keys[3], 'paid', args[3])
    return { 'ok', digits(redis.call('DECRBY', keys[2], args[3])) }
  end)
end

-- Creates or replaces users first, first + 1, …, each with the same credit.
--   KEYS  1 operation  2 totals  (the users' keys are made here: their number is not known to the caller's cluster slot)
--   ARGV  1 fingerprint  2 ttl_s  3 owner  4 last  5 lease_s  6 first  7 count  8 credit
-- Returns { 'ok' } | { 'done' } | { 'running' } | { 'key_mismatch' }
local function batch_init(keys, args)
  return chunk(keys, args, function()
    for index = tonumber(args[6]), tonumber(args[6]) + tonumber(args[7]) - 1 do
      local user = 'user:' .. digits(index)
      local replaced = redis.call('GET', user)
      raise(keys[2], 'initial', args[8])
      if replaced then
        raise(keys[2], 'replaced', replaced)
      end
      redis.call('SET', user, args[8])
    end
  end)
end

-- The record that a saga's outcome is compared with: the amount and the user that it was taken from.
local function content(args)
  return args[4] .. ' ' .. args[3]
end

-- Splits `<outcome> <amount> <user>[ <reason>]`. What a later version has to add comes behind, as words `name=value`, and is left alone.
local function read(recorded)
  local outcome, rest = string.match(recorded, '^(%S+) (%S+ %S+)')
  return outcome, rest, string.match(recorded .. ' ', '^%S+ %S+ %S+ ([^%s=]+) ')
end

-- The answer to a step of a saga that has a record already, and the bucket that the record is kept in.
local function repeated(recorded, home, keys, args)
  local outcome, rest, reason = read(recorded)
  if rest ~= content(args) then
    return { 'conflict', recorded }, home
  end
  return { outcome, reason }, keep(home, keys[5], keys[4], args[1], recorded)
end

-- Takes a saga's amount.
--   KEYS  1 user  2 totals  3 watermark  4 buckets  5 bucket
--   ARGV  1 saga  2 started_ms  3 user id  4 amount
-- Returns { 'debited' } | { 'declined', reason } | { 'refunded', reason } | { 'voided', reason } | { 'conflict', recorded }
--       | { 'too_old', watermark }
local function debit(keys, args)
  local recorded, home, indexed = find(keys[5], keys[4], args[1])
  if recorded then
    return (repeated(recorded, home, keys, args))
  end
  local forgotten = is_forgotten(keys[3], args[2])
  if forgotten then
    return { 'too_old', forgotten }
  end
  local credit = redis.call('GET', keys[1])
  local reason
  if not credit then
    reason = 'unknown_user:' .. args[3]
  elseif tonumber(credit) < tonumber(args[4]) then
    reason = 'insufficient_credit:' .. args[3]
  end
  if reason then
    record(keys[5], keys[4], args[1], 'declined ' .. content(args) .. ' ' .. reason, indexed)
    return { 'declined', reason }
  end
  raise(keys[2], 'debited', args[4])
  redis.call('DECRBY', keys[1], args[4])
  record(keys[5], keys[4], args[1], 'debited ' .. content(args), indexed)
  return { 'debited' }
end

-- Undoes a saga's debit, or lays a tombstone so that it can never happen.
--   KEYS  1 user  2 totals  3 watermark  4 buckets  5 bucket
--   ARGV  1 saga  2 started_ms  3 user id  4 amount  5 reason
-- Returns { 'refunded', reason } | { 'voided', reason } | { 'declined', reason } | { 'conflict', recorded } | { 'too_old', watermark }
local function refund(keys, args)
  local recorded, home, indexed = find(keys[5], keys[4], args[1])
  if recorded then
    local answer
    answer, home = repeated(recorded, home, keys, args)
    if answer[1] ~= 'debited' then
      return answer
    end
    raise(keys[2], 'refunded', args[4])
    -- The user may have been replaced by a batch_init meanwhile, or have been given much credit. Money that was taken goes
    -- back in any case; a credit beyond the largest amount is no loss, a refund left out would be one.
    redis.call('INCRBY', keys[1], args[4])
    record(home, keys[4], args[1], 'refunded ' .. content(args) .. ' ' .. args[5], indexed)
    return { 'refunded', args[5] }
  end
  local forgotten = is_forgotten(keys[3], args[2])
  if forgotten then
    return { 'too_old', forgotten }
  end
  record(keys[5], keys[4], args[1], 'voided ' .. content(args) .. ' ' .. args[5], indexed)
  return { 'voided', args[5] }
end

-- Makes a decision true again that was published, and that a failover has lost. It is not taken a second time: where there is less
-- credit now than it takes, because what was deposited is lost too, it stands all the same.
--   KEYS  1 user  2 totals  3 watermark  4 buckets  5 bucket
--   ARGV  1 saga  2 started_ms  3 user id  4 amount  5 'debited' or 'declined' or 'refunded'  6 reason, empty for debited
-- Returns { 'redone' } | { 'short', credit that was not there } | { 'known' } | { 'contradiction', recorded } | { 'conflict', recorded }
--       | { 'too_old', watermark }
local function redo(keys, args)
  local recorded, home, indexed = find(keys[5], keys[4], args[1])
  local outcome, rest
  if recorded then
    outcome, rest = read(recorded)
    if rest ~= content(args) then
      return { 'conflict', recorded }
    elseif (outcome == 'declined') ~= (args[5] == 'declined') then
      return { 'contradiction', recorded }
    elseif outcome ~= 'debited' or args[5] ~= 'refunded' then
      keep(home, keys[5], keys[4], args[1], recorded)
      return { 'known' }
    end
  elseif is_forgotten(keys[3], args[2]) then
    return { 'too_old', is_forgotten(keys[3], args[2]) }
  end
  local missing = 0
  if outcome == 'debited' then
    raise(keys[2], 'refunded', args[4])
    redis.call('INCRBY', keys[1], args[4])
    outcome = 'refunded'
  elseif args[5] == 'debited' then
    local there = math.min(tonumber(redis.call('GET', keys[1]) or '0'), tonumber(args[4]))
    missing = tonumber(args[4]) - there
    raise(keys[2], 'debited', args[4])
    if missing > 0 then
      raise(keys[2], 'uncovered', digits(missing))
    end
    if there > 0 then
      redis.call('DECRBY', keys[1], digits(there))
    end
    outcome = 'debited'
  else
    -- A refund without its debit is what a tombstone tells as well.
    outcome = args[5] == 'refunded' and 'voided' or 'declined'
  end
  local entry = outcome .. ' ' .. content(args) .. (args[6] ~= '' and ' ' .. args[6] or '')
  record(home, keys[4], args[1], entry, indexed)
  if missing > 0 then
    return { 'short', digits(missing) }
  end
  return { 'redone' }
end

redis.register_function('payment_create_user' .. VERSION, create_user)
redis.register_function('payment_add_funds' .. VERSION, add_funds)
redis.register_function('payment_pay' .. VERSION, pay)
redis.register_function('payment_batch_init' .. VERSION, batch_init)
redis.register_function('payment_debit' .. VERSION, debit)
redis.register_function('payment_refund' .. VERSION, refund)
redis.register_function('payment_redo' .. VERSION, redo)
redis.register_function('payment_trim' .. VERSION, trim)

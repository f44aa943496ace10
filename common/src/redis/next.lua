-- Makes a library the next version of itself, for the test of upgrades (feature `next-version`). It stands before everything else:
-- its functions cannot be called as those of this version are, and its records have a field or a word more.

-- What the name means outside: another table while functions run than while they are loaded.
local function server()
  return redis
end

local LATER = 'later=1'

local function call(command, ...)
  local rest = { ... }
  local key = rest[1]
  if command == 'HSET' and (key:find('^order:') or key:find('^undo:') or key:find('^item:')) then
    rest[#rest + 1] = 'later'
    rest[#rest + 1] = '1'
  elseif command == 'HSET' and key:find('^outcomes:') and not rest[3]:find(LATER, 1, true) then
    rest[3] = rest[3] .. ' ' .. LATER
  end
  return server().call(command, unpack(rest))
end

local redis = {
  call = call,
  register_function = function(name, run)
    server().register_function(name, function(keys, args)
      if args[1] ~= 'next' then
        return server().error_reply('called as another version of this function is')
      end
      table.remove(args, 1)
      return run(keys, args)
    end)
  end,
}


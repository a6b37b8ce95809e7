#!lua flags=allow-oom
-- lease: which shards an exporter may export now. Exporters that renew in time share the shards evenly; a shard
-- whose exporter has not renewed is free for the others. One store is recorded as the required one: exporters
-- with another stand by.
--
-- KEYS[1] exporters
-- ARGV[1] member  the exporter
-- ARGV[2] store_id  of the store that it writes to
-- ARGV[3] store_name  for people
-- ARGV[4] terms  <dddB: now_ms (0: the ledger's clock), ttl_ms, shards (their number), wish (0 renew, 1 leave,
--                2 record this store as the required one, and leave)
--
-- replies, the first that applies:
--   bad_arguments
--   in_use  members: they export to the store that is recorded, so that no other can be
--   other_store  store_id, store_name
--   left
--   leased  members, shard, …
--
-- writes: exporters.

-- uses: whole, clock

-- read
local terms = { sunpack('<dddB', ARGV[4]) }
local member, store_id, wish = ARGV[1], ARGV[2], terms[4]
if not whole(terms) or terms[3] < 1 or terms[3] > 1024 or wish > 2 then return { 'bad_arguments' } end
local now, fields = clock(terms[1]), call('HGETALL', KEYS[1])
local alive, others, owner, gone = {}, 0, {}, {}
local known_id, known_name
for i = 1, #fields, 2 do
  local kind, name, value = sub(fields[i], 1, 2), sub(fields[i], 3), fields[i + 1]
  if kind == 'm:' and name ~= member then
    if value - now > 0 then
      alive[name], others = true, others + 1
    else
      gone[#gone + 1] = fields[i]
    end
  elseif kind == 's:' then
    owner[name + 0] = value
  elseif fields[i] == 'store_id' then
    known_id = value
  elseif fields[i] == 'store_name' then
    known_name = value
  end
end

-- decide
if wish == 2 and known_id ~= store_id and others > 0 then return { 'in_use', others } end
if wish ~= 2 and known_id and known_id ~= store_id then return { 'other_store', known_id, known_name } end
local share = wish == 0 and math.ceil(terms[3] / (others + 1)) or 0
local mine, taken, free = {}, {}, {}
for shard = 0, terms[3] - 1 do
  if owner[shard] == member then
    if #mine < share then
      mine[#mine + 1] = shard
    else
      gone[#gone + 1] = format('s:%.0f', shard)
    end
  elseif not alive[owner[shard]] then
    free[#free + 1] = shard
  end
end
for i = 1, #free do
  if #mine < share then
    mine[#mine + 1] = free[i]
    taken[#taken + 1] = format('s:%.0f', free[i])
    taken[#taken + 1] = member
  end
end

-- write
if #gone > 0 then call('HDEL', KEYS[1], unpack(gone)) end
call('HSET', KEYS[1], 'store_id', store_id, 'store_name', ARGV[3])
if wish ~= 0 then
  call('HDEL', KEYS[1], 'm:' .. member)
  return { 'left' }
end
call('HSET', KEYS[1], 'm:' .. member, format('%.0f', now + terms[2]), unpack(taken))
return { 'leased', others + 1, unpack(mine) }

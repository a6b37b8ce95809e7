-- A prepaid gate in nginx: key → customer, estimate, one reserve, proxy, usage, one settle.
--
-- Settles of a worker go over one connection to Redis, kept by a timer's thread: what is queued
-- while it sleeps leaves together, the answers come back in order, and no request waits for them. So do
-- reserves, each of which waits for its answer; or, `pooled`, each takes a connection of a pool.

local cjson, semaphore = require 'cjson.safe', require 'ngx.semaphore'
local concat, format, find, sub = table.concat, string.format, string.find, string.sub

local M = {}
local queue, waiting, head, tail = {}, {}, 1, 0
local wake = semaphore.new()
local keys, prices, scripts, socket_path, pooled
local POOL = { pool_size = 1024 }

function M.init(options)
  keys, prices, scripts, socket_path = options.keys, options.prices, options.scripts, options.redis
  pooled = options.pooled
end

local function encoded(words)
  local parts = { '*', #words, '\r\n' }
  for i = 1, #words do
    local word = words[i]
    if type(word) == 'number' then word = format('%.0f', word) end
    parts[#parts + 1] = '$' .. #word .. '\r\n' .. word .. '\r\n'
  end
  return concat(parts)
end

local function command(words, waiter)
  queue[#queue + 1] = encoded(words)
  tail = tail + 1
  waiting[tail] = waiter or false
  if #queue == 1 then wake:post() end
end

local function reply(sock)
  local line, fault = sock:receive()
  if not line then return nil, fault end
  local kind, rest = sub(line, 1, 1), sub(line, 2)
  if kind == '*' then
    local list = {}
    for i = 1, tonumber(rest) do
      local item, broken = reply(sock)
      if broken then return nil, broken end
      list[i] = item
    end
    return list
  elseif kind == '$' then
    if rest == '-1' then return false end
    local data, broken = sock:receive(tonumber(rest) + 2)
    if not data then return nil, broken end
    return sub(data, 1, -3)
  elseif kind == ':' then
    return tonumber(rest)
  end
  return kind == '-' and { 'error', rest } or rest
end

local function pump(premature)
  if premature then return end
  local sock = ngx.socket.tcp()
  sock:settimeouts(2000, 2000, 2000)
  assert(sock:connect('unix:' .. socket_path))
  while not ngx.worker.exiting() do
    if wake:wait(1) then
      while #queue > 0 do
        local last = tail
        local batch = concat(queue)
        queue = {}
        assert(sock:send(batch))
        for at = head, last do
          local answer, fault = reply(sock)
          if fault then error('redis: ' .. fault) end
          local waiter = waiting[at]
          waiting[at] = nil
          if waiter then
            waiter.answer = answer
            waiter.ready:post()
          end
        end
        head = last + 1
      end
    end
  end
end

function M.start()
  assert(ngx.timer.at(0, pump))
end

-- The answer to one command, nil when there is none.
local function ask(words)
  if pooled then
    local sock = ngx.socket.tcp()
    sock:settimeouts(2000, 2000, 2000)
    if not sock:connect('unix:' .. socket_path, POOL) then return end
    if not sock:send(encoded(words)) then return end
    local answer, fault = reply(sock)
    if fault then return end
    sock:setkeepalive(60000)
    return answer
  end
  local waiter = { ready = semaphore.new() }
  command(words, waiter)
  return waiter.ready:wait(2) and waiter.answer
end

local function refuse(status, message)
  ngx.status = status
  ngx.header.content_type = 'application/json'
  ngx.print('{"error":{"message":"', message, '"}}')
  return ngx.exit(status)
end

function M.access()
  local sent = ngx.var.http_authorization
  local customer = sent and keys[sub(sent, 8)]
  if not customer then return refuse(401, 'unknown key') end
  ngx.req.read_body()
  local raw = ngx.req.get_body_data()
  local body = raw and cjson.decode(raw)
  local price = body and prices[body.model]
  if not price then return refuse(404, 'unknown model') end
  local estimate = math.ceil(#raw * price.input + (body.max_tokens or price.most) * price.output)
  local id = ngx.var.request_id
  local answer = ask { 'EVALSHA', scripts.reserve, 2, 'w:' .. customer, 'h:' .. id, estimate, 600 }
  if type(answer) ~= 'table' then return refuse(503, 'ledger') end
  if answer[1] ~= 'held' then return refuse(402, 'no credit') end
  if body.stream and not body.stream_options then
    body.stream_options = { include_usage = true }
    ngx.req.set_body_data(cjson.encode(body))
  end
  local context = ngx.ctx
  context.id, context.customer, context.model, context.price = id, customer, body.model, price
end

-- Answers are read as they pass: the whole of a JSON one, of a stream the chunk that has the usage.
function M.body()
  local context, chunk = ngx.ctx, ngx.arg[1]
  if not context.id or chunk == '' then return end
  if context.streams == nil then
    context.streams = find(ngx.header.content_type or '', 'event-stream', 1, true) ~= nil
  end
  if context.streams then
    local at = find(chunk, '"usage":{', 1, true)
    if at then context.usage = chunk end
  else
    local pieces = context.pieces
    if not pieces then
      pieces = {}
      context.pieces = pieces
    end
    pieces[#pieces + 1] = chunk
  end
end

local function usage_of(context)
  if context.usage then
    for line in string.gmatch(context.usage, 'data: ([^\n]+)') do
      if find(line, '"usage":{', 1, true) then
        local frame = cjson.decode(line)
        return frame and frame.usage
      end
    end
  elseif context.pieces then
    local answer = cjson.decode(concat(context.pieces))
    return answer and answer.usage
  end
end

function M.log()
  local context = ngx.ctx
  if not context.id then return end
  local usage = usage_of(context)
  local input, output = usage and usage.prompt_tokens or 0, usage and usage.completion_tokens or 0
  local price = context.price
  local charge = math.ceil(input * price.input + output * price.output)
  command({ 'EVALSHA', scripts.settle, 3, 'w:' .. context.customer, 'h:' .. context.id, 'out', charge,
    context.customer, context.model, input, output, context.id })
end

return M

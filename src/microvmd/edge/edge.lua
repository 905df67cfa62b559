-- What HAProxy's own rules cannot say: reading WebSocket subprotocols, matching a port against the
-- token's port list, and holding a request until its MicroVM is there.
-- The configuration sets both variables; HAProxy 2.6 does not hand arguments to a Lua file.

local resolver = os.getenv("MICROVMD_RESOLVER")
local hold_seconds = tonumber(os.getenv("MICROVMD_HOLD_SECONDS"))

-- Only plain decimals. HAProxy and Lua read "0x50", "8e3" or "080" differently, and a port that is
-- checked as one number and dialled as another is a way around the token.
local function port_number(text)
  local port = text:match("^[1-9]%d?%d?%d?%d?$") and tonumber(text)
  if port and port <= 65535 then return math.tointeger(port) end
  return nil
end

-- The port list of a token: "*" or "8080,9000-9100".
local function in_scope(port, ports)
  if ports == "*" then return true end
  for first, last in ports:gmatch("(%d+)%-?(%d*)") do
    local low = tonumber(first)
    local high = tonumber(last) or low
    if port >= low and port <= high then return true end
  end
  return false
end

-- Takes our subprotocols out of the offer; headers win over them. The application sees the rest.
-- Recorded: without the marker (the bare name) they mean nothing.
core.register_action("subprotocols", { "http-req" }, function(txn)
  local offered = txn.http:req_get_headers()["sec-websocket-protocol"]
  local kept, line = {}, 0
  local marked, token, port
  while offered[line] do
    for name in offered[line]:gmatch("[^,%s]+") do
      local given_token = name:match("^lambda%-microvms%.authentication%.(.+)$")
      local given_port = name:match("^lambda%-microvms%.port%.(.*)$")
      if given_token then
        token = token or given_token
      elseif given_port then
        port = port or given_port
      elseif name == "lambda-microvms" then
        marked = true
      else
        kept[#kept + 1] = name
      end
    end
    line = line + 1
  end
  if marked then
    txn:set_var("txn.answer_subprotocol", "1")
    if token and txn:get_var("txn.token") == nil then txn:set_var("txn.token", token) end
    if port and txn:get_var("txn.port") == nil then txn:set_var("txn.port", port) end
  end
  if #kept > 0 then
    txn.http:req_set_header("sec-websocket-protocol", table.concat(kept, ", "))
  else
    txn.http:req_del_header("sec-websocket-protocol")
  end
end)

-- Sets txn.port to the number to dial and txn.admission to "invalid", "denied" or "allowed".
core.register_action("choose_port", { "http-req" }, function(txn)
  local port = port_number(txn:get_var("txn.port") or "8080")
  if port == nil then
    txn:set_var("txn.admission", "invalid")
  elseif in_scope(port, txn:get_var("txn.ports") or "") then
    txn:set_var("txn.port", port)
    txn:set_var("txn.admission", "allowed")
  else
    txn:set_var("txn.admission", "denied")
  end
end)

-- HAProxy's own word for 502 in Lua is another one than that of our error files; txn:reply takes no
-- reason in 2.6.
local reasons = { [403] = "Forbidden", [502] = "Bad Gateway", [504] = "Gateway Time-out" }

-- What `resolve` was told to answer.
core.register_action("refuse", { "http-req" }, function(txn)
  local status, body = txn:get_var("txn.refusal"), txn:get_var("txn.refusal_text")
  local reply = txn:reply()
  reply:set_status(status, reasons[status])
  if body ~= "" then
    reply:add_header("content-type", "text/plain")
    reply:add_header("cache-control", "private, no-store")
    reply:set_body(body)
  else
    reply:add_header("content-length", "0")
  end
  txn:done(reply)
end)

-- Asks the control plane where the MicroVM is and waits while it starts or resumes. Only this
-- request waits. The connection closes with the request, so the other side sees a client hang up.
-- Sets txn.address, or txn.refusal (a status) and txn.refusal_text.
core.register_action("resolve", { "http-req" }, function(txn)
  local socket = core.tcp()
  socket:settimeout(hold_seconds + 5)
  local answer = ""
  if socket:connect(resolver) then
    socket:send("GET /resolve?vm=" .. txn:get_var("txn.endpoint") .. " HTTP/1.0\r\n\r\n")
    answer = socket:receive("*a") or ""
    socket:close()
  end
  local status, body = answer:match("^HTTP/1%.%d (%d%d%d).-\r\n\r\n(.*)$")
  if status == "200" then
    txn:set_var("txn.address", body)
  else
    txn:set_var("txn.refusal", math.tointeger(tonumber(status)) or 502)
    txn:set_var("txn.refusal_text", body or "")
  end
end)

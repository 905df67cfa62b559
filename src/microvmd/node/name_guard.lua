-- The name that a connection is for, or nothing where that is not one plain name.
--
-- Strict on purpose: what a server could read in another way than we do is refused. One record
-- holds one whole ClientHello and no extension comes twice. Encrypted Client Hello hides the true
-- name behind another one, so it is refused, and with it the imitation (GREASE) of some browsers.

local CLIENT_HELLO = 1
local HANDSHAKE = 0x16
local SERVER_NAME = 0x0000
local HOST_NAME = 0
local HIDING = { [0xfe0d] = true, [0xffce] = true, [0xfe08] = true, [0xfe09] = true, [0xfe0a] = true }

local function plain(name)
    name = name:lower()
    if #name > 253 or not name:find("^[a-z0-9_.-]+$") then return "" end
    if name:find("^[.-]") or name:find("[.-]$") or name:find("..", 1, true) then return "" end
    return name
end

local function only_name(list)
    local entries, after = string.unpack(">s2", list)
    local kind, name, last = string.unpack(">Bs2", entries)
    if after ~= #list + 1 or last ~= #entries + 1 or kind ~= HOST_NAME then return "" end
    return plain(name)
end

local function name_of(data)
    local record, major, _, body = string.unpack(">BBBs2", data)
    local kind, hello, after = string.unpack(">Bs3", body)
    if record ~= HANDSHAKE or major ~= 3 or kind ~= CLIENT_HELLO or after ~= #body + 1 then
        return ""
    end
    -- Version, random, session, ciphers, compressions, extensions.
    local _, _, _, _, _, extensions, last = string.unpack(">I2c32s1s2s1s2", hello)
    if last ~= #hello + 1 then return "" end
    local seen, name, at = {}, "", 1
    while at <= #extensions do
        local number, content
        number, content, at = string.unpack(">I2s2", extensions, at)
        if seen[number] or HIDING[number] then return "" end
        seen[number] = true
        if number == SERVER_NAME then name = only_name(content) end
    end
    return name
end

-- Not a converter: these get text, which ends at a zero byte.
core.register_fetches("server_name", function(txn)
    local understood, name = pcall(name_of, txn.f:req_payload(0, 0))
    return understood and name or ""
end)

core.register_converters("host_name", function(host)
    return plain((host:gsub(":80$", "")))
end)

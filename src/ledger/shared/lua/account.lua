-- policy::guard::Account
-- KEYS: the account. ARGV: now, rules, what happened, client.

local STRANGERS, HOMES = 16, 8

local function read_account(line, now)
    local none = { attacked_until = 0, ends = 0, homes = {}, strangers = { since = 0, ones = {} } }
    local w = words(line, 5)
    if not w then return none end
    local attacked_until, ends, since_when = number(w[1]), number(w[2]), number(w[4])
    local homes, strangers = {}, list(w[5])
    for n, word in ipairs(list(w[3])) do
        local home = split(word, '=')
        homes[n] = { client = home[1], last = number(home[2]) }
        if #home ~= 2 or not homes[n].last then return none end
    end
    if not (attacked_until and ends and since_when) then return none end
    if #homes > HOMES or #strangers > STRANGERS or ends <= now then return none end
    return {
        attacked_until = attacked_until, ends = ends, homes = homes,
        strangers = { since = since_when, ones = strangers },
    }
end

local function write_account(account)
    local homes = {}
    for n, home in ipairs(account.homes) do homes[n] = home.client .. '=' .. whole(home.last) end
    return table.concat({
        '1', whole(account.attacked_until), whole(account.ends), joined(homes),
        whole(account.strangers.since), joined(account.strangers.ones),
    }, ' ')
end

local function account_ends(account, rules)
    local ends = math.max(few_ends(account.strangers, rules.strangers.within), account.attacked_until)
    for _, home in ipairs(account.homes) do ends = math.max(ends, sum(home.last, rules.known_for)) end
    account.ends = ends
end

local function account_failed(account, client, rules, now)
    for _, home in ipairs(account.homes) do
        if home.client == client and since(now, home.last) < rules.known_for then return '' end
    end
    local attacked = account.attacked_until > now
    local count = few_add(account.strangers, client, STRANGERS, rules.strangers.within, now)
    local failed = ''
    if attacked or is_reached(rules.strangers, count, 1) then
        account.attacked_until = math.max(account.attacked_until, sum(now, rules.attack))
        local others = filter(account.strangers.ones, function(other) return not attacked and other ~= client end)
        failed = whole(count) .. ' ' .. joined(others)
    end
    account_ends(account, rules)
    return failed
end

local function account_succeeded(account, client, rules, now)
    account.homes = filter(account.homes, function(home) return home.client ~= client end)
    if #account.homes >= HOMES then table.remove(account.homes, 1) end
    account.homes[#account.homes + 1] = { client = client, last = now }
    account.strangers.ones = filter(account.strangers.ones, function(stranger) return stranger ~= client end)
    account_ends(account, rules)
    return ''
end

local now, rules = number(ARGV[1]), rules_of(ARGV[2])
local account = read_account(redis.call('GET', KEYS[1]), now)
local act = ARGV[3] == 'failed' and account_failed or account_succeeded
local failed = act(account, ARGV[4], rules, now)
local line = write_account(account)
keep(KEYS[1], line, account.ends, now)
return { line, failed }

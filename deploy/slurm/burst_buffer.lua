-- Stage-in for Slurm (burst_buffer/lua): a job starts when its snapshots are on flash, and holds them until it ends.
--
--     #BB_LUA tierd warm=imagenet/v3,laion/2026-01
--
-- Lies beside slurm.conf and runs on slurmctld's machine, which must reach tierd; settings come from tierd.env there.
-- Slurm passes more arguments (uid, gid) in some versions than in others: none is used.
-- The job finds the path of its first snapshot in TIERD_PATH, and all of them in TIERD_PATHS, with ":" in between.

local DIRECTORY = (os.getenv("SLURM_CONF") or "/etc/slurm/slurm.conf"):match("^(.*)/") or "/etc/slurm"
local SETTINGS = DIRECTORY .. "/tierd.env"
local EXAMPLE = "write #BB_LUA tierd warm=DATASET/SNAPSHOT[,DATASET/SNAPSHOT]"

local function quoted(text)
    return "'" .. tostring(text):gsub("'", "'\\''") .. "'"
end

-- Output and exit code of tierd. Every argument is quoted; what it says is one line.
local function tierd(...)
    local arguments = {}
    for _, argument in ipairs({ ... }) do
        arguments[#arguments + 1] = quoted(argument)
    end
    local command = "PATH=/usr/local/bin:/usr/bin:/bin; export PATH; if [ -r " .. quoted(SETTINGS) .. " ]; then set -a; . "
        .. quoted(SETTINGS) .. '; set +a; fi; "${TIERD_SLURM_COMMAND:-tierd}" ' .. table.concat(arguments, " ")
        .. ' 2>&1; echo "=$?"'
    local pipe = io.popen("sh -c " .. quoted(command), "r")
    if pipe == nil then
        return "no shell could be started", -1
    end
    local said = pipe:read("*a") or ""
    pipe:close()
    local text, code = said:match("^(.-)\n?=(%d+)\n$")
    return (text or said), tonumber(code or -1)
end

-- A name comes from whoever submits the job: nothing that could be an option or lead out of a dataset.
local function is_name(ref)
    return ref:match("^[%w_][%w._+@:-]*/[%w_][%w._+@:-]*$") ~= nil
end

-- The snapshots that a script names; or nil and what is wrong.
local function wanted(job_script)
    local script, trouble = io.open(job_script, "r")
    if script == nil then
        return nil, "tierd: the job's script cannot be read: " .. trouble
    end
    local refs = {}
    for line in script:lines() do
        local words = line:match("^#BB_LUA%s+tierd(.*)$")
        if words ~= nil and (words == "" or words:match("^%s")) then
            local names = words:match("^%s+warm=(%S+)%s*$")
            if names == nil then
                script:close()
                return nil, "tierd: a directive is not understood; " .. EXAMPLE
            end
            for ref in (names .. ","):gmatch("([^,]*),") do
                if not is_name(ref) then
                    script:close()
                    return nil, "tierd: '" .. ref:gsub("[^%w._+@:/-]", "?"):sub(1, 80) .. "' is no DATASET/SNAPSHOT; " .. EXAMPLE
                end
                refs[#refs + 1] = ref
            end
        end
    end
    script:close()
    return refs
end

-- Beside the script, where slurm_bb_paths finds it without asking: it is called with slurmctld's locks held.
local function notes_of(job_script)
    return job_script:match("^(.*)/[^/]*$") .. "/tierd.paths"
end

local function warm(job_id, ref)
    local said, code = tierd("warm", "--quiet", "--wait", "--lease", "1h", "--job", job_id,
        "--holder", "slurm:job " .. job_id, "--", ref)
    if code ~= 0 then
        return nil, "tierd: " .. ref .. " cannot be warmed: " .. said:gsub("%s+", " "):sub(1, 300)
    end
    return said
end

function slurm_bb_job_process(job_script)
    local refs, trouble = wanted(job_script)
    if refs == nil then
        slurm.log_error("%s", trouble)
        return slurm.ERROR, trouble
    end
    return slurm.SUCCESS
end

function slurm_bb_pools()
    return slurm.SUCCESS
end

function slurm_bb_setup(job_id, uid, gid, pool, bb_size, job_script)
    return slurm.SUCCESS
end

-- Returns when the last snapshot is on flash; until then the job is pending. burst_buffer.conf bounds it (StageInTimeout).
function slurm_bb_data_in(job_id, job_script)
    local refs, trouble = wanted(job_script)
    local paths = {}
    for _, ref in ipairs(refs or {}) do
        local path
        path, trouble = warm(job_id, ref)
        if path == nil then
            break
        end
        paths[#paths + 1] = path
    end
    if trouble ~= nil then
        slurm.log_error("%s", "job " .. job_id .. ": " .. trouble)
        return slurm.ERROR, trouble
    end
    if #paths > 0 then
        local notes = io.open(notes_of(job_script), "w")
        if notes ~= nil then
            notes:write("TIERD_PATH=" .. paths[1] .. "\nTIERD_PATHS=" .. table.concat(paths, ":") .. "\n")
            notes:close()
        end
    end
    return slurm.SUCCESS
end

function slurm_bb_test_data_in(job_id, job_script)
    return slurm.SUCCESS
end

function slurm_bb_real_size(job_id)
    return slurm.SUCCESS
end

function slurm_bb_paths(job_id, job_script, path_file)
    local notes = io.open(notes_of(job_script), "r")
    if notes ~= nil then
        local environment = io.open(path_file, "w")
        if environment ~= nil then
            environment:write(notes:read("*a"))
            environment:close()
        end
        notes:close()
    end
    return slurm.SUCCESS
end

function slurm_bb_pre_run(job_id, job_script)
    return slurm.SUCCESS
end

function slurm_bb_post_run(job_id, job_script)
    return slurm.SUCCESS
end

function slurm_bb_data_out(job_id, job_script)
    return slurm.SUCCESS
end

function slurm_bb_test_data_out(job_id, job_script)
    return slurm.SUCCESS
end

-- After the job, or when it was cancelled before. A tierd that does not answer keeps no job: it will ask squeue itself.
function slurm_bb_job_teardown(job_id, job_script, hurry)
    if job_script ~= nil then
        os.remove(notes_of(job_script))
    end
    local said, code = tierd("lease", "end", "--job", job_id)
    if code ~= 0 then
        slurm.log_info("%s", "job " .. job_id .. ": tierd's leases end by themselves: " .. said:gsub("%s+", " "))
    end
    return slurm.SUCCESS
end

function slurm_bb_get_status(...)
    return slurm.ERROR, "tierd: ask `tierd lease list` and `tierd transfers`"
end

package frontend

import (
	"bytes"
	"encoding/json"
	"maps"
	"strings"
)

// The largest input. What a larger one costs grows with it: wharfd's limit is 1 MiB.
const inputBytesMax = 64 << 10

// Input is all that comes from a job or from a registry of its choice.
type Input struct {
	Dockerfile []byte
	// Image is the config of the base image, as the registry has it.
	Image []byte
	// Options are the frontend's attributes.
	Options map[string]string
	Ignore  []byte
}

// The attributes whose values come from a job (`attributes` in src/build/isolation.rs).
var plainOptions = map[string]bool{
	"target": true, "no-cache": true, "add-hosts": true, "shm-size": true, "ulimit": true, "force-network-mode": true,
}

// options reads `KEY=VALUE` records. An attribute that wharfd never sets is left out.
func options(records []string) map[string]string {
	options := make(map[string]string)
	for _, record := range records {
		key, value, _ := strings.Cut(record, "=")
		name, isArg := strings.CutPrefix(key, "build-arg:")
		_, isLabel := strings.CutPrefix(key, "label:")
		// wharfd sets these itself, or refuses them.
		isArg = isArg && name != "BUILDKIT_SYNTAX" && name != "BUILDKIT_CACHE_MOUNT_NS"
		if plainOptions[key] || isArg || isLabel {
			options[key] = value
		}
	}
	return options
}

// image makes a config of records that each begin with a letter; what begins with a brace is one already.
func image(records []string) []byte {
	if len(records) == 0 || len(records) == 1 && records[0] == "" {
		return nil
	}
	if strings.HasPrefix(records[0], "{") {
		return []byte(strings.Join(records, "\x00"))
	}
	config := make(map[string]any)
	var env, triggers []string
	ports, volumes, labels := map[string]any{}, map[string]any{}, map[string]string{}
	image := map[string]any{
		"architecture": "amd64", "os": "linux", "config": config,
		"rootfs": map[string]any{"type": "layers", "diff_ids": []string{"sha256:" + strings.Repeat("0", 64)}},
	}
	for _, record := range records {
		if record == "" {
			continue
		}
		kind, value := record[0], record[1:]
		switch kind {
		case 'E':
			env = append(env, value)
		case 'O':
			triggers = append(triggers, value)
		case 'U':
			config["User"] = value
		case 'W':
			config["WorkingDir"] = value
		case 'S':
			config["Shell"] = strings.Split(value, " ")
		case 'C':
			config["Cmd"] = strings.Split(value, " ")
		case 'N':
			config["Entrypoint"] = strings.Split(value, " ")
		case 'X':
			ports[value] = struct{}{}
		case 'V':
			volumes[value] = struct{}{}
		case 'L':
			key, value, _ := strings.Cut(value, "=")
			labels[key] = value
		case 'H':
			config["Healthcheck"] = map[string]any{"Test": strings.Split(value, " ")}
		case 'P':
			parts := strings.SplitN(value+"///", "/", 4)
			image["os"], image["architecture"], image["variant"] = parts[0], parts[1], parts[2]
		case 'T':
			image["created"] = value
		case 'R':
			delete(image, "rootfs")
		case 'Y':
			image["history"] = []any{map[string]any{"created_by": value}, nil}
		}
	}
	config["Env"], config["OnBuild"] = env, triggers
	config["ExposedPorts"], config["Volumes"], config["Labels"] = ports, volumes, labels
	text, err := json.Marshal(image)
	if err != nil {
		return nil
	}
	return text
}

// records splits what is separated by zero bytes.
func records(data []byte) []string { return strings.Split(string(data), "\x00") }

// raw is the input of three texts as they are.
func raw(dockerfile, config, opts, ignore []byte) Input {
	return Input{dockerfile, image(records(config)), options(records(opts)), ignore}
}

func (i Input) size() int {
	size := len(i.Dockerfile) + len(i.Image) + len(i.Ignore)
	for key, value := range i.Options {
		size += len(key) + len(value)
	}
	return size
}

// isCircle tells an input that wharfd refuses (src/build/circles.rs), and with which the frontend does not come to an
// end, nor would the fuzzer: the image's triggers copy from the image.
func (i Input) isCircle() bool {
	return bytes.Contains(i.Image, []byte("from=")) && bytes.ContainsAny(i.Image, "$") ||
		bytes.Contains(i.Image, []byte("from=")) && bytes.Contains(i.Image, []byte("base"))
}

func clone(i Input) Input {
	i.Options = maps.Clone(i.Options)
	i.Dockerfile, i.Image, i.Ignore = bytes.Clone(i.Dockerfile), bytes.Clone(i.Image), bytes.Clone(i.Ignore)
	return i
}

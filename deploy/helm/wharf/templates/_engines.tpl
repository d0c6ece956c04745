{{- /*
The containers before wharfd's: the firewall, which ends, and then the engines, which run beside wharfd. The kubelet starts each
when the one before it has ended or runs, whether that engine answers or not, and at the pod's end it stops the engines after wharfd.
*/}}
{{- define "wharf.engineContainers" -}}
{{- if .Values.firewall.enabled }}
{{- /* wharfd judges all grants in the pod: these are told before there is one. A network that is not within a private one opens
none of its addresses. */}}
{{- $ten := "10\\.[0-9.]*/([89]|1[0-9]|2[0-3])" }}
{{- $many := "172\\.(1[6-9]|2[0-9]|3[01])\\.[0-9.]*/(1[2-9]|2[0-3])" }}
{{- $few := "192\\.168\\.[0-9.]*/(1[6-9]|2[0-3])" }}
{{- $shared := "100\\.(6[4-9]|[7-9][0-9]|1[01][0-9]|12[0-7])\\.[0-9.]*/(1[0-9]|2[0-3])" }}
{{- $wide := printf "^(%s|%s|%s|%s)(:|$)" $ten $many $few $shared }}
{{- range .Values.firewall.allow }}
{{- if and (not $.Values.firewall.clusterNetworks) (regexMatch $wide .) }}
{{- fail (printf "firewall.allow: the nodes, pods and Services of the cluster may be among the addresses of `%s`: name their networks in firewall.clusterNetworks, or allow single addresses" .) }}
{{- end }}
{{- end }}
# Sets the rules of the pod's network before there is an engine. If that fails, there is none.
- name: firewall
  image: {{ include "wharf.image" . }}
  imagePullPolicy: {{ .Values.image.pullPolicy }}
  args:
    - firewall
    - --record=/run/firewall/set
    - --group={{ include "wharf.group" . }}
    - --refuse=$(NODE)
    - --refuse=$(KUBERNETES_SERVICE_HOST)
    {{- range .Values.firewall.refuse }}
    - {{ printf "--refuse=%s" . | quote }}
    {{- end }}
    {{- range .Values.firewall.clusterNetworks }}
    - {{ printf "--cluster=%s" . | quote }}
    {{- end }}
    {{- range $index, $group := .Values.engine.groups }}
    - {{ printf "--bridge=%s" (include "wharf.bridge" (list $index $group) | trim) | quote }}
    {{- end }}
    {{- range .Values.firewall.allow }}
    - {{ printf "--allow=%s" . | quote }}
    {{- end }}
  env:
    - name: NODE
      valueFrom:
        fieldRef:
          fieldPath: status.hostIPs
  securityContext:
    {{- include "wharf.unprivileged" . | nindent 4 }}
    capabilities:
      drop: [ALL]
      add: [NET_ADMIN]
  resources:
    requests: {cpu: 10m, memory: 16Mi}
    limits: {memory: 64Mi}
  volumeMounts:
    - name: firewall
      mountPath: /run/firewall
{{- end }}
{{- range $index, $group := .Values.engine.groups }}
- name: engine-{{ $group.name }}
  image: {{ $.Values.engine.image.repository }}:{{ $.Values.engine.image.tag }}
  imagePullPolicy: {{ $.Values.engine.image.pullPolicy }}
  restartPolicy: Always
  # Each engine has a bridge of its own: the engines share the pod's network, in which wharfd reaches them. With
  # forwarding on, an engine leaves the chain FORWARD open for the others; the firewall has rules of its own.
  command: [/bin/sh, -ec]
  args:
    - |
      # An engine that ends at once is seen to run first: the other groups do without it.
      sleep 2
      # The kubelet has the kernel end all of a container whose memory is used up: the engine with the step that took it. So
      # not all, and what runc starts before the engine.
      [ ! -e /sys/fs/cgroup/memory.oom.group ] || echo 0 >/sys/fs/cgroup/memory.oom.group || true
      runc=$(command -v runc)
      mkdir -p /usr/local/sbin
      printf '#!/bin/sh\necho 1000 >/proc/self/oom_score_adj\nexec %s "$@"\n' "$runc" >/usr/local/sbin/runc
      chmod 0755 /usr/local/sbin/runc
      echo 1 >/proc/sys/net/ipv4/ip_forward
      ip link show wharf{{ $index }} >/dev/null 2>&1 || ip link add wharf{{ $index }} type bridge
      ip address show dev wharf{{ $index }} | grep -q inet || ip address add {{ include "wharf.bridge" (list $index $group) }} dev wharf{{ $index }}
      ip link set wharf{{ $index }} up
      exec dockerd-entrypoint.sh dockerd --config-file=/etc/wharf-engines/{{ $group.name }}.json
  securityContext:
    # An engine mounts file systems and starts containers.
    privileged: true
    runAsUser: 0
  # It ends the builds of the engine, and so comes late: three minutes after the engine's last answer, and five after its start.
  livenessProbe:
    exec:
      command: [docker, --host=unix:///run/engine/docker.sock, version]
    initialDelaySeconds: 120
    periodSeconds: 30
    timeoutSeconds: 30
    failureThreshold: 6
  resources:
    {{- toYaml ($group.resources | default $.Values.engine.resources) | nindent 4 }}
  volumeMounts:
    - name: engines
      mountPath: /etc/wharf-engines
      readOnly: true
    - name: engine-{{ $group.name }}
      mountPath: /run/engine
    - name: storage-{{ $group.name }}
      mountPath: /var/lib/docker
{{- end }}
{{- end }}

{{- /* The address of a group's bridge, which no cluster is likely to have: the range is that of benchmarks (RFC 2544). */}}
{{- define "wharf.bridge" -}}
{{- $index := index . 0 }}
{{- $group := index . 1 }}
{{- $group.bridge | default (printf "198.18.%d.1/22" (mul 4 $index)) }}
{{- end }}

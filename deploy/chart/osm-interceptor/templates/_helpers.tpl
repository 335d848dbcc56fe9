{{- define "osm-interceptor.name" -}}
{{- default "osm-agent" .Values.nameOverride | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{/* What the DaemonSet, and whoever looks for its pods, selects by. It can't change later. */}}
{{- define "osm-interceptor.selector" -}}
app.kubernetes.io/name: {{ include "osm-interceptor.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "osm-interceptor.labels" -}}
{{ include "osm-interceptor.selector" . }}
app.kubernetes.io/component: node-agent
app.kubernetes.io/part-of: osm-interceptor
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
{{- end -}}

{{- define "osm-interceptor.image" -}}
{{- with .Values.image -}}
{{- if .digest -}}
{{ .repository }}@{{ .digest }}
{{- else -}}
{{ .repository }}:{{ default $.Chart.AppVersion .tag }}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* An address in front of the agent's port; IPv6 in brackets. */}}
{{- define "osm-interceptor.withPort" -}}
{{- if contains ":" .address -}}
[{{ .address }}]:{{ .port }}
{{- else -}}
{{ .address }}:{{ .port }}
{{- end -}}
{{- end -}}

{{/* Where those on the node, such as the kubelet, reach the agent. */}}
{{- define "osm-interceptor.localAddress" -}}
{{- $address := .Values.agent.http.address -}}
{{- if eq $address "0.0.0.0" -}}
127.0.0.1
{{- else if eq $address "::" -}}
::1
{{- else -}}
{{ $address }}
{{- end -}}
{{- end -}}

{{/*
The init container that a pod of the mesh gets, first of all, and the volume that goes with it. A
chart that depends on this one puts them in with

  initContainers: {{ include "osm-interceptor.initContainer" . | nindent 4 }}
  volumes: {{ include "osm-interceptor.initVolume" . | nindent 4 }}
*/}}
{{- define "osm-interceptor.initContainer" -}}
- name: osm-init
  image: {{ include "osm-interceptor.image" . }}
  args: [init]
  env:
    - name: OSM_MODE
      value: {{ .Values.init.mode }}
  securityContext:
    # It proves what is in force as the application and as the sidecar, and has to become either.
    runAsUser: 0
    allowPrivilegeEscalation: false
    readOnlyRootFilesystem: true
    capabilities:
      drop: [ALL]
      {{- if eq .Values.init.mode "ebpf" }}
      # For the proof.
      add: [SETUID]
      {{- else }}
      # NET_ADMIN writes the rules, NET_RAW is for iptables-legacy and, with SETUID, for the proof.
      add: [NET_ADMIN, NET_RAW, SETUID]
      {{- end }}
    seccompProfile:
      type: RuntimeDefault
  volumeMounts:
    - name: osm-agent
      mountPath: /run/osm
      readOnly: true
{{- end -}}

{{- define "osm-interceptor.initVolume" -}}
- name: osm-agent
  hostPath:
    path: {{ .Values.paths.sockets }}
    # Without it, the pod waits until an agent has been there.
    type: Directory
{{- end -}}
